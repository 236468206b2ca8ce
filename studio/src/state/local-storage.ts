/** Signals that survive a reload, in the browser's local storage. */

import { effect, signal, type Signal } from "@preact/signals";

const PREFIX = "tritone.studio.";

/** Return a signal whose value is stored. A stored value that `isValid` rejects is replaced by the default. */
export function persisted<T>(name: string, initial: T, isValid: (value: unknown) => value is T): Signal<T> {
  const key = PREFIX + name;
  const stored = signal<T>(read(key, initial, isValid));
  effect(() => {
    const value = JSON.stringify(stored.value);
    try {
      localStorage.setItem(key, value);
    } catch {
      // In private windows or with full storage, the page works without storing the value.
    }
  });
  return stored;
}

function read<T>(key: string, initial: T, isValid: (value: unknown) => value is T): T {
  try {
    const text = localStorage.getItem(key);
    if (text === null) return initial;
    const value: unknown = JSON.parse(text);
    return isValid(value) ? value : initial;
  } catch {
    return initial;
  }
}

export const isString = (value: unknown): value is string => typeof value === "string";
export const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);
export const isBoolean = (value: unknown): value is boolean => typeof value === "boolean";
export const isStrings = (value: unknown): value is string[] => Array.isArray(value) && value.every(isString);
