/** Inspiration: a new piece, its classification and similar tracks, in one request. */

import { signal } from "@preact/signals";

import { api } from "../../api/client";
import { preloadSynthesizer, stop } from "../../audio/player";
import { scoreOf } from "../../music/notes";
import { isNumber, isString, persisted } from "../../state/local-storage";
import { playScore, revealScore, samplingOptions, showResult, task } from "./actions";
import { adoptTempo, settings } from "./state";

export const MOODS = [
  "amazement",
  "solemnity",
  "tenderness",
  "nostalgia",
  "calmness",
  "power",
  "joyful_activation",
  "tension",
  "sadness",
] as const;
export type Mood = (typeof MOODS)[number];

interface Track {
  id: string;
  title: string | null;
  artist: string | null;
}

/** Classification and similar tracks of the last inspired piece. */
export interface Inspiration {
  label: string;
  probability: number;
  /** The strongest emotion; null if the result has no emotions. */
  emotion: string | null;
  tracks: Track[];
  /** Time from the click to the response. */
  totalMs: number;
  renderMs: number;
}

const N_TRACKS = 5;

export const mood = persisted<Mood | "">("write.mood", "", (value): value is Mood | "" => isMood(value) || value === "");
export const inspiration = persisted<Inspiration | null>(
  "write.inspiration",
  null,
  (value): value is Inspiration | null => value === null || isInspiration(value),
);
/** Whether a request is in progress. */
export const inspiring = signal(false);

/** Compose a piece, play it, and show its classification and similar tracks. */
export async function inspire(): Promise<void> {
  const start = performance.now();
  stop();
  preloadSynthesizer(); // in the click handler, where browsers permit audio output
  revealScore();
  inspiring.value = true;
  await task.run(async (abort) => {
    const { tempo_qpm, ...sampling } = samplingOptions();
    const values = {
      mood: mood.value || undefined,
      bars: settings.value.bars,
      n: N_TRACKS,
      ...sampling,
      tempo_qpm: mood.value ? undefined : tempo_qpm, // a mood sets the tempo
    };
    const found = await api.inspire(values, { signal: abort });
    const totalMs = Math.round(performance.now() - start);
    const score = scoreOf(found.piece);
    const { label, probabilities, emotions } = found.classification;
    showResult(score, found.piece, "inspire", values);
    adoptTempo(score);
    inspiration.value = {
      label,
      probability: probabilities[label] ?? 0,
      emotion: Object.keys(emotions ?? {})[0] ?? null,
      tracks: found.recommendations.recommendations.map(({ track_id, title, artist }) => ({ id: track_id, title, artist })),
      totalMs,
      renderMs: Math.round(1000 * found.render_s),
    };
    playScore();
  });
  inspiring.value = false;
}

function isMood(value: unknown): value is Mood {
  return MOODS.includes(value as Mood);
}

function isInspiration(value: unknown): value is Inspiration {
  const it = value as Inspiration | undefined;
  return (
    typeof it === "object" &&
    isString(it.label) &&
    [it.probability, it.totalMs, it.renderMs].every(isNumber) &&
    isTextOrNull(it.emotion) &&
    Array.isArray(it.tracks) &&
    it.tracks.every((each: Partial<Track> | null) => isString(each?.id) && isTextOrNull(each.title) && isTextOrNull(each.artist))
  );
}

function isTextOrNull(value: unknown): value is string | null {
  return value === null || isString(value);
}
