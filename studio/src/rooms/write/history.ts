/** Scores for undo and redo, in the browser's IndexedDB because local storage is too small. */

import { computed, signal } from "@preact/signals";

import { isScore, type Score } from "../../music/notes";
import { readStored, writeStored } from "../../state/indexed-db";

const NAME = "write.history";
const MAX_STEPS = 100;
const MAX_NOTES = 50_000; // total of all scores of a list

/** Scores to undo and redo; the last of each list is the next one. */
interface Steps {
  before: readonly Score[];
  after: readonly Score[];
}

const steps = signal<Steps>({ before: [], after: [] });
let restoring: Promise<void> | null = null;
let isWriting = false;
let isStale = false;

export const canUndo = computed(() => steps.value.before.length > 0);
export const canRedo = computed(() => steps.value.after.length > 0);

/** Add a score that is about to be replaced, and clear the scores to redo. */
export function remember(replaced: Score): void {
  set({ before: [...steps.value.before, replaced], after: [] });
}

/** Return the previous score, or undefined; the current one can then be redone. */
export function stepBack(present: Score): Score | undefined {
  const { before, after } = steps.value;
  const previous = before.at(-1);
  if (previous) set({ before: before.slice(0, -1), after: [...after, present] });
  return previous;
}

/** Return the score that was undone last, or undefined. */
export function stepForward(present: Score): Score | undefined {
  const { before, after } = steps.value;
  const next = after.at(-1);
  if (next) set({ before: [...before, present], after: after.slice(0, -1) });
  return next;
}

/** Restore the steps of the last visit, before those of this visit. */
export function restoreHistory(): Promise<void> {
  restoring ??= restore();
  return restoring;
}

async function restore(): Promise<void> {
  const found = await readStored(NAME);
  if (!isSteps(found)) return;
  const { before, after } = steps.value;
  const isUntouched = !before.length && !after.length;
  set({ before: [...found.before, ...before], after: isUntouched ? found.after : after });
}

function set(next: Steps): void {
  steps.value = { before: latest(next.before), after: latest(next.after) };
  void keep();
}

/** Store the steps; changes during a write are written together afterwards. */
async function keep(): Promise<void> {
  isStale = true;
  if (isWriting) return;
  isWriting = true;
  while (isStale) {
    isStale = false;
    await writeStored(NAME, steps.value);
  }
  isWriting = false;
}

/** Return the last scores of a list, up to the limits of steps and notes; at least one. */
function latest(scores: readonly Score[]): readonly Score[] {
  let first = Math.max(scores.length - 1, 0);
  let nNotes = scores[first]?.notes.length ?? 0;
  while (first > 0 && scores.length - first < MAX_STEPS) {
    nNotes += scores[first - 1]?.notes.length ?? 0;
    if (nNotes > MAX_NOTES) break;
    first -= 1;
  }
  return scores.slice(first);
}

function isSteps(value: unknown): value is Steps {
  const it = value as Steps | null | undefined;
  return [it?.before, it?.after].every((list) => Array.isArray(list) && list.every(isScore));
}
