/** Texts of the page; a translation is one module with the same keys as `en`. */

import { en, type Messages } from "./en";

export type Key = keyof Messages;

const LANGUAGES: Record<string, Messages> = { en };

const language = navigator.languages.map((tag) => tag.split("-")[0] ?? "").find((tag) => tag in LANGUAGES) ?? "en";
const messages = LANGUAGES[language] ?? en;

document.documentElement.lang = language;

/** Return a text, with `{name}` replaced by values. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  return messages[key].replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

/** Return a number as the language writes it. */
export function formatNumber(value: number, digits = 0): string {
  return value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** Return seconds as minutes and seconds, as in 1:05. */
export function formatTime(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
