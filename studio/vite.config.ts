import { defineConfig } from "vite";

// The gateway serves the page at /studio/, and its wheel carries the built files.
export default defineConfig({
  base: "/studio/",
  build: {
    outDir: "../gateway/tritone_gateway/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // data: addresses would need an exception in the Content-Security-Policy
    chunkSizeWarningLimit: 1500, // of kB: the engraver and the synthesizer are loaded when they are first used
    modulePreload: { polyfill: false },
    rolldownOptions: { checks: { pluginTimings: false } },
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8080", "/readyz": "http://127.0.0.1:8080", "/metrics": "http://127.0.0.1:8080" } },
});
