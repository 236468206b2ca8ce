/** The recording and what the model heard in it; both survive a reload. */

import { signal } from "@preact/signals";

import { api, type Classification } from "../../api/client";
import { newTask } from "../../components/status";
import { forget, store, stored } from "../../state/stored";

const NAME = "listen.recording";

interface Recording {
  file: Blob;
  name: string;
}

export const recording = signal<Recording | null>(null);
export const result = signal<Classification | null>(null);
/** Whether the browser refused to keep the recording. */
export const isFleeting = signal(false);
export const positionS = signal(0);
/** A moment to play from, as an object so that the same moment can be asked for twice. */
export const seek = signal<{ timeS: number } | null>(null);
export const analysis = newTask();

let restored = false;

/** Analyse a recording, instead of the present one. */
export async function analyse(file: Blob, name: string): Promise<void> {
  recording.value = { file, name };
  result.value = null;
  positionS.value = 0;
  seek.value = null;
  void keep();
  await analysis.run(async (abort) => {
    result.value = await api.classify(file, { signal: abort });
    await keep();
  });
}

/** Forget the recording, here and in the browser's storage. */
export async function discard(): Promise<void> {
  analysis.abort();
  await forget(NAME);
  analysis.error.value = null;
  recording.value = null;
  result.value = null;
  seek.value = null;
  isFleeting.value = false;
}

/** Return to the recording of the last visit; one that was not analysed to the end is analysed again. */
export async function restore(): Promise<void> {
  if (restored) return;
  restored = true;
  const found = await stored(NAME);
  if (!isRecord(found) || recording.value) return;
  if (!found.result) {
    await analyse(found.file, found.name);
    return;
  }
  recording.value = { file: found.file, name: found.name };
  result.value = found.result;
}

async function keep(): Promise<void> {
  const now = recording.value;
  if (now) isFleeting.value = !(await store(NAME, { ...now, result: result.value }));
}

function isRecord(value: unknown): value is Recording & { result: Classification | null } {
  const it = value as (Recording & { result?: Classification | null }) | null | undefined;
  if (!(it?.file instanceof Blob) || typeof it.name !== "string") return false;
  return !it.result || (Array.isArray(it.result.timeline) && typeof it.result.probabilities === "object");
}
