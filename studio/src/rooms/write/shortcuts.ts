/** Keyboard shortcuts: Space plays, Ctrl+Z undoes, Escape stops. */

import { loadingSound, playing, stop } from "../../audio/player";
import { composing, playScore, task } from "./actions";
import { redo, score, selection, startFrame, undo } from "./state";

const TYPING = /^(INPUT|SELECT|TEXTAREA)$/;
const PRESSED_BY_SPACE = /^(BUTTON|SUMMARY|A)$/;

/** Stop playback, or start it from the selected bars, or else from the start. */
export function togglePlay(): void {
  if (playing.value || loadingSound.value) stop();
  else if (score.value.notes.length) playScore(startFrame());
}

/** Stop composing; if not composing, stop playback; if not playing, clear the selection. */
function escape(): void {
  if (composing.value) task.abort();
  else if (playing.value || loadingSound.value) stop();
  else selection.value = null;
}

export function onShortcut(event: KeyboardEvent): void {
  const { tagName } = event.target as HTMLElement;
  if (event.key === "Escape") {
    escape();
    return;
  }
  if (TYPING.test(tagName)) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
    event.preventDefault();
    if (composing.value) return;
    if (event.shiftKey) redo();
    else undo();
  } else if (event.key === " " && !PRESSED_BY_SPACE.test(tagName)) {
    event.preventDefault();
    togglePlay();
  }
}
