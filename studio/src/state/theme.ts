/** Light or dark: as the system, or as chosen. */

import { computed, effect, signal } from "@preact/signals";

import { persisted } from "./persisted";

export const THEMES = ["auto", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const system = matchMedia("(prefers-color-scheme: dark)");
const systemIsDark = signal(system.matches);
system.addEventListener("change", (event) => (systemIsDark.value = event.matches));

export const theme = persisted<Theme>("theme", "auto", (value): value is Theme => THEMES.includes(value as Theme));

/** For what is drawn with colours of its own, such as the waveform. */
export const isDark = computed(() => (theme.value === "auto" ? systemIsDark.value : theme.value === "dark"));

effect(() => {
  if (theme.value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
});
