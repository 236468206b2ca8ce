/** At most one playback at a time: the score, an idea, or a track. */

let stopCurrentPlayback: (() => void) | null = null;

/** Stop the current playback, and register how to stop the new one. */
export function claimPlayback(stop: () => void): void {
  if (stopCurrentPlayback !== stop) stopCurrentPlayback?.();
  stopCurrentPlayback = stop;
}
