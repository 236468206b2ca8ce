/** One thing sounds at a time: the score, an idea, or a track. */

let stopCurrent: (() => void) | null = null;

/** Stop what sounds, and remember how to stop what begins now. */
export function takeSound(stop: () => void): void {
  if (stopCurrent !== stop) stopCurrent?.();
  stopCurrent = stop;
}
