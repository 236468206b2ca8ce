/** The models of this room, among those that the server has. */

import { computed, signal } from "@preact/signals";

import { api } from "../../api/client";

const STREAMING = "composer";
const WHOLE = ["music_transformer", "polyphony_rnn"];

const INSPIRE = "inspire";

const served = signal<readonly string[]>([]); // empty until they are known

/** The names of the models that compose, those that stream first. */
export const composers = computed(() => composing(served.value));
export const canInspire = computed(() => served.value.includes(INSPIRE));

/** Return whether a model composes bar by bar. */
export function streams(model: string): boolean {
  return model.startsWith(STREAMING);
}

/** Return the names that compose; a name may have a suffix, as in `music_transformer-jazz`. */
export function composing(names: readonly string[]): string[] {
  const of = (kinds: readonly string[]) =>
    names.filter((name) => kinds.some((kind) => name === kind || name.startsWith(`${kind}-`)));
  return [...of([STREAMING]), ...of(WHOLE)];
}

/** Return the chosen model if the server has it, else the first one that it has. */
export function chosen(model: string, available: readonly string[]): string {
  return available.includes(model) ? model : (available[0] ?? STREAMING);
}

/** Ask for the models; where that fails, composing reports what is wrong. */
export async function findModels(): Promise<void> {
  try {
    served.value = (await api.models()).models.map((model) => model.name);
  } catch {
    // The gateway may be starting; the next visit to the room asks again.
  }
}
