/** Earlier scores for undo, and undone ones for redo; in the browser's IndexedDB, for local storage is too small. */

import { computed, signal } from "@preact/signals";

import { isScore, type Score } from "../../music/notes";
import { store, stored } from "../../state/stored";

const NAME = "write.history";
const MOST_STEPS = 100;
const MOST_NOTES = 50_000; // of all steps of a list together

/** Both lists end with the score that is next. */
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

/** Remember a score that is about to be replaced; what was undone before is gone. */
export function remember(replaced: Score): void {
  set({ before: [...steps.value.before, replaced], after: [] });
}

/** Return the score before the present one, which can then be redone; undefined if there is none. */
export function back(present: Score): Score | undefined {
  const { before, after } = steps.value;
  const previous = before.at(-1);
  if (previous) set({ before: before.slice(0, -1), after: [...after, present] });
  return previous;
}

/** Return the score that was undone last; undefined if there is none. */
export function forward(present: Score): Score | undefined {
  const { before, after } = steps.value;
  const next = after.at(-1);
  if (next) set({ before: [...before, present], after: after.slice(0, -1) });
  return next;
}

/** Return to the steps of the last visit; those of this visit stay behind them. */
export function restoreHistory(): Promise<void> {
  restoring ??= restore();
  return restoring;
}

async function restore(): Promise<void> {
  const found = await stored(NAME);
  if (!isSteps(found)) return;
  const { before, after } = steps.value;
  const isUntouched = !before.length && !after.length;
  set({ before: [...found.before, ...before], after: isUntouched ? found.after : after });
}

function set(next: Steps): void {
  steps.value = { before: latest(next.before), after: latest(next.after) };
  void keep();
}

/** Store the steps; while they are being written, only the newest ones wait. */
async function keep(): Promise<void> {
  isStale = true;
  if (isWriting) return;
  isWriting = true;
  while (isStale) {
    isStale = false;
    await store(NAME, steps.value);
  }
  isWriting = false;
}

/** Return the last scores of a list, as many as are kept: at least one. */
function latest(scores: readonly Score[]): readonly Score[] {
  let first = Math.max(scores.length - 1, 0);
  let nNotes = scores[first]?.notes.length ?? 0;
  while (first > 0 && scores.length - first < MOST_STEPS) {
    nNotes += scores[first - 1]?.notes.length ?? 0;
    if (nNotes > MOST_NOTES) break;
    first -= 1;
  }
  return scores.slice(first);
}

function isSteps(value: unknown): value is Steps {
  const it = value as Steps | null | undefined;
  return [it?.before, it?.after].every((list) => Array.isArray(list) && list.every(isScore));
}
