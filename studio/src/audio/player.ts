/** Plays scores. Notes are scheduled shortly before they sound, so that a score may grow while it plays. */

import { computed, signal } from "@preact/signals";

import { partOf, programOf } from "../music/instruments";
import { secondsPerFrame, type Score } from "../music/notes";
import { claimPlayback } from "./exclusive-playback";
import { audioContext, synthesizer } from "./synth";

const SCHEDULE_AHEAD_S = 0.3;
const TICK_MS = 50;
const VELOCITY = 90;
const MELODY_VELOCITY = 100; // of the highest of several parts
const PIANO = ["Acoustic Grand Piano"];
const START_DELAY_S = 0.08;
const ARTICULATION = 0.97; // share of a note's length that sounds, so that repeated notes are separate

interface Playback {
  /** Name of the playback, such as `score`. */
  id: string;
  /** Returns the current notes; called repeatedly. */
  score: () => Score;
  /** The first time step to play. */
  from?: number;
  /** Whether the score is complete; until then, playback waits for more notes at its end. */
  complete?: () => boolean;
}

/** Id of the current playback, or null, and its position in time steps. */
export const playingId = signal<string | null>(null);
export const playing = computed(() => playingId.value !== null);
export const position = signal(0);
export const loadingSound = signal(false);

let timer: ReturnType<typeof setInterval> | null = null;
let generation = 0; // incremented by each call of play or stop; older calls that are still loading then end
let startedAtS = 0;
let firstFrame = 0;
let scheduledTo = 0;
let stepS = 0;
let tuned = ""; // the instruments of the synthesiser's channels

/** Start loading the synthesiser. Call it in a click or key handler, where browsers permit audio output. */
export function preloadSynthesizer(): void {
  void audioContext().resume();
  void synthesizer().catch(() => undefined); // `play` reports it
}

/** Stop the current playback and play a score.
 *
 * @throws Error if the synthesiser or its SoundFont cannot be loaded
 */
export async function play(playback: Playback): Promise<void> {
  claimPlayback(stop);
  stop();
  const own = ++generation;
  const audio = audioContext();
  loadingSound.value = true;
  try {
    await audio.resume();
    await synthesizer();
  } finally {
    if (own === generation) loadingSound.value = false;
  }
  if (own !== generation) return;
  firstFrame = playback.from ?? 0;
  scheduledTo = firstFrame;
  stepS = secondsPerFrame(playback.score());
  startedAtS = audio.currentTime + START_DELAY_S;
  position.value = firstFrame;
  playingId.value = playback.id;
  timer = setInterval(() => void tick(playback, own), TICK_MS);
  await tick(playback, own);
}

/** Stop the current playback, also one that is still loading. */
export function stop(): void {
  generation += 1;
  loadingSound.value = false;
  if (timer !== null) clearInterval(timer);
  timer = null;
  if (playing.value) void synthesizer().then((synth) => synth.stopAll(true));
  playingId.value = null;
  position.value = 0;
}

/** Play one note immediately, as feedback for a click. */
export async function playNote(pitch: number): Promise<void> {
  const audio = audioContext();
  await audio.resume();
  const synth = await synthesizer();
  synth.noteOn(0, pitch, VELOCITY);
  synth.noteOff(0, pitch, { time: audio.currentTime + 0.4 });
}

async function tick({ score: scoreNow, complete = () => true }: Playback, own: number): Promise<void> {
  const audio = audioContext();
  const synth = await synthesizer();
  if (own !== generation) return;
  const score = scoreNow();
  if (secondsPerFrame(score) !== stepS) {
    // The tempo has changed: continue from this position with the new one.
    firstFrame += Math.max(0, audio.currentTime - startedAtS) / stepS;
    startedAtS = Math.max(startedAtS, audio.currentTime);
    stepS = secondsPerFrame(score);
  }
  const instruments = score.instruments?.length ? score.instruments : PIANO;
  if (instruments.join() !== tuned) {
    instruments.forEach((instrument, channel) => synth.programChange(channel, programOf(instrument)));
    tuned = instruments.join();
  }
  const now = (audio.currentTime - startedAtS) / stepS + firstFrame;
  const until = Math.min(now + SCHEDULE_AHEAD_S / stepS, score.nFrames);
  for (const note of score.notes) {
    const [onset, length, pitch] = note;
    if (onset >= scheduledTo && onset < until) {
      const at = startedAtS + (onset - firstFrame) * stepS;
      const part = partOf(note, score.notes, instruments.length); // a channel for each
      synth.noteOn(part, pitch, instruments.length > 1 && part === 0 ? MELODY_VELOCITY : VELOCITY, { time: at });
      synth.noteOff(part, pitch, { time: at + length * stepS * ARTICULATION });
    }
  }
  scheduledTo = Math.max(scheduledTo, until);
  position.value = Math.max(firstFrame, Math.min(now, score.nFrames));
  if (now < score.nFrames) return;
  if (complete()) {
    stop();
  } else {
    // The model is slower than the music: wait at the end.
    startedAtS = audio.currentTime;
    firstFrame = score.nFrames;
  }
}
