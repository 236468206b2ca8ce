/** Colour theme: light, dark, or the setting of the system. */

import { computed, effect, signal } from "@preact/signals";

import { persisted } from "./local-storage";

export const THEMES = ["auto", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const system = matchMedia("(prefers-color-scheme: dark)");
const systemIsDark = signal(system.matches);
system.addEventListener("change", (event) => (systemIsDark.value = event.matches));

export const theme = persisted<Theme>("theme", "auto", (value): value is Theme => THEMES.includes(value as Theme));

/** Whether the theme is dark; for canvases, which do not use the style sheet. */
export const isDark = computed(() => (theme.value === "auto" ? systemIsDark.value : theme.value === "dark"));

effect(() => {
  if (theme.value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
});
