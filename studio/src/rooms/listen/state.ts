/** State of the room Listen: the recording and its classification, both of which survive a reload. */

import { signal } from "@preact/signals";

import { api, type Classification } from "../../api/client";
import { newTask } from "../../components/status";
import { readStored, removeStored, writeStored } from "../../state/indexed-db";

const NAME = "listen.recording";

interface Recording {
  file: Blob;
  name: string;
}

export const recording = signal<Recording | null>(null);
export const result = signal<Classification | null>(null);
/** Whether the browser could not store the recording. */
export const isUnstored = signal(false);
export const positionS = signal(0);
/** Time to play from; an object, so that setting the same time again is a change. */
export const seek = signal<{ timeS: number } | null>(null);
export const analysis = newTask();

let restored = false;

/** Replace the recording and analyse it. */
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

/** Delete the recording, also from the browser's storage. */
export async function discard(): Promise<void> {
  analysis.abort();
  await removeStored(NAME);
  analysis.error.value = null;
  recording.value = null;
  result.value = null;
  seek.value = null;
  isUnstored.value = false;
}

/** Restore the recording of the last visit, and analyse it if it has no result yet. */
export async function restore(): Promise<void> {
  if (restored) return;
  restored = true;
  const found = await readStored(NAME);
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
  if (now) isUnstored.value = !(await writeStored(NAME, { ...now, result: result.value }));
}

function isRecord(value: unknown): value is Recording & { result: Classification | null } {
  const it = value as (Recording & { result?: Classification | null }) | null | undefined;
  if (!(it?.file instanceof Blob) || typeof it.name !== "string") return false;
  return !it.result || (Array.isArray(it.result.timeline) && typeof it.result.probabilities === "object");
}
