/** Plays scores: notes are scheduled shortly before they sound, so that a score may grow while it plays. */

import { signal } from "@preact/signals";

import { secondsPerFrame, type Score } from "../music/notes";
import { audioContext, synthesizer } from "./synth";

const AHEAD_S = 0.3;
const TICK_MS = 50;
const VELOCITY = 90;
const DELAY_S = 0.08;

/** Whether a score plays, and where in time steps. */
export const playing = signal(false);
export const position = signal(0);
export const loadingSound = signal(false);

let timer: ReturnType<typeof setInterval> | null = null;
let current: () => Score = () => {
  throw new Error("nothing to play");
};
let startedAtS = 0;
let firstFrame = 0;
let scheduledTo = 0;
let isComplete: () => boolean = () => true;

/** Play a score from a time step; while `complete` returns false, the end waits for more notes. */
export async function play(score: () => Score, from = 0, complete: () => boolean = () => true): Promise<void> {
  stop();
  const audio = audioContext();
  await audio.resume();
  loadingSound.value = true;
  try {
    await synthesizer();
  } finally {
    loadingSound.value = false;
  }
  current = score;
  isComplete = complete;
  firstFrame = from;
  scheduledTo = from;
  startedAtS = audio.currentTime + DELAY_S;
  playing.value = true;
  timer = setInterval(() => void tick(), TICK_MS);
  await tick();
}

export function stop(): void {
  if (timer !== null) clearInterval(timer);
  timer = null;
  if (playing.value) void synthesizer().then((synth) => synth.stopAll(true));
  playing.value = false;
}

/** Sound one note at once, as feedback for a click. */
export async function sound(pitch: number): Promise<void> {
  const audio = audioContext();
  await audio.resume();
  const synth = await synthesizer();
  synth.noteOn(0, pitch, VELOCITY);
  synth.noteOff(0, pitch, { time: audio.currentTime + 0.4 });
}

async function tick(): Promise<void> {
  const audio = audioContext();
  const synth = await synthesizer();
  if (!playing.value) return;
  const score = current();
  const step = secondsPerFrame(score);
  const now = (audio.currentTime - startedAtS) / step + firstFrame;
  const until = Math.min(now + AHEAD_S / step, score.nFrames);
  for (const [onset, length, pitch] of score.notes) {
    if (onset >= scheduledTo && onset < until) {
      const at = startedAtS + (onset - firstFrame) * step;
      synth.noteOn(0, pitch, VELOCITY, { time: at });
      synth.noteOff(0, pitch, { time: at + length * step * 0.97 });
    }
  }
  scheduledTo = Math.max(scheduledTo, until);
  position.value = Math.max(firstFrame, Math.min(now, score.nFrames));
  if (now >= score.nFrames) {
    if (isComplete()) {
      stop();
      position.value = 0;
    } else {
      // The model is slower than the music: wait at the end.
      startedAtS = audio.currentTime;
      firstFrame = score.nFrames;
    }
  }
}
