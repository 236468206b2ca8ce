/** Selection of the models of this room among the served models. */

import { computed, signal } from "@preact/signals";

import { api } from "../../api/client";

const STREAMING = "composer";
const NON_STREAMING = ["music_transformer", "polyphony_rnn"];

const INSPIRE = "inspire";

const served = signal<readonly string[]>([]); // empty until the gateway has responded

/** Names of the models that compose, streaming models first. */
export const composers = computed(() => composing(served.value));
export const canInspire = computed(() => served.value.includes(INSPIRE));

/** Return whether a model composes bar by bar. */
export function streams(model: string): boolean {
  return model.startsWith(STREAMING);
}

/** Return the names of models that compose; a name may have a suffix, as in `music_transformer-jazz`. */
export function composing(names: readonly string[]): string[] {
  const of = (kinds: readonly string[]) =>
    names.filter((name) => kinds.some((kind) => name === kind || name.startsWith(`${kind}-`)));
  return [...of([STREAMING]), ...of(NON_STREAMING)];
}

/** Return the chosen model if it is available, or else the first available one. */
export function chosen(model: string, available: readonly string[]): string {
  return available.includes(model) ? model : (available[0] ?? STREAMING);
}

/** Request the served models; if this fails, composing reports the error. */
export async function findModels(): Promise<void> {
  try {
    served.value = (await api.models()).models.map((model) => model.name);
  } catch {
    // The gateway may still be starting; opening the room again repeats the request.
  }
}
