/** Actions on the score; each sends one request to the gateway. */

import { computed, signal } from "@preact/signals";

import { api, composeStream, type Piece } from "../../api/client";
import { play, playingId, preloadSynthesizer, stop } from "../../audio/player";
import { newTask } from "../../components/status";
import { t } from "../../i18n";
import { appended, EMPTY, excerpt, isPolyphonic, nBars, noteList, replaced, scoreOf, type Score } from "../../music/notes";
import { conditionsOf, samplingOf } from "./conditions";
import { chosen, composers, streams } from "./models";
import { pythonCall } from "./python";
import {
  adoptTempo,
  change,
  ideas,
  chosenInstruments,
  instrumented,
  rememberedBars,
  python,
  score,
  selection,
  settings,
} from "./state";

export const task = newTask();
/** Milliseconds from the request to the first bar of the last composition. */
export const firstBarMs = signal<number | null>(null);
/** The seed of the last piece. */
export const lastSeed = signal<number | null>(null);
/** Whether a composition is being streamed. */
export const composing = signal(false);
/** Error message if notes cannot be played. */
export const soundError = signal<string | null>(null);

/** Id of the score's playback. */
export const SCORE = "score";
/** Whether the score, rather than an idea, is playing. */
export const scorePlays = computed(() => playingId.value === SCORE);

const REVEAL_BELOW = 0.6; // share of the screen's height
const N_LATENT_BARS = 2;
const FILE = "tune.mid"; // name of the score in Python code

/** Play from a time step; while a composition is streamed, playback waits at its end for more notes. */
export function playScore(from = 0): void {
  soundError.value = null;
  play({ id: SCORE, score: () => instrumented(score.value), from, complete: () => !composing.value }).catch(reportSoundError);
}

export function reportSoundError(error: unknown): void {
  soundError.value = t("play.noSound", { why: error instanceof Error ? error.message : String(error) });
}

/** Scroll to the score if it is far below, as on a phone. */
export function revealScore(): void {
  const panel = document.getElementById("score")?.parentElement;
  if (panel && panel.getBoundingClientRect().top > innerHeight * REVEAL_BELOW) panel.scrollIntoView();
}

function seedOf(text: string): number | undefined {
  if (!text.trim()) return undefined;
  const seed = Number(text);
  if (!Number.isSafeInteger(seed) || seed < 0) throw new Error(t("write.badSeed", { got: text }));
  return seed;
}

function sampling() {
  const { seed, tempoQpm } = settings.value;
  return {
    ...samplingOf(settings.value),
    seed: seedOf(seed),
    tempo_qpm: tempoQpm,
    instruments: chosenInstruments()?.slice(),
  };
}

/** Return the sampling parameters of the settings, for models that compose whole pieces. */
export function samplingOptions() {
  return { ...sampling(), style: settings.value.style.trim() || undefined };
}

/** Replace the score by the result of a call, as a step that can be undone. */
export function showResult(next: Score, piece: Piece, call: string, values: Record<string, unknown>): void {
  change(next);
  lastSeed.value = piece.seed ?? null;
  python.value = pythonCall(call, { ...values, seed: piece.seed ?? undefined });
}

/** Compose from scratch, or continue the score; a streaming model's notes are shown as they arrive. */
export async function compose({ fromPrompt, aloud }: { fromPrompt: boolean; aloud: boolean }): Promise<void> {
  const prompt = fromPrompt && score.value.notes.length ? score.value : null;
  const model = chosen(settings.value.model, composers.value);
  const before = prompt?.nFrames ?? 0;
  const start = performance.now();
  stop();
  revealScore();
  firstBarMs.value = null;
  if (aloud) preloadSynthesizer(); // in the click handler, where browsers permit audio output
  await task.run(async (abort) => {
    const values = { bars: settings.value.bars, ...samplingOptions(), ...conditionsOf(settings.value) };
    const body = { ...values, file: prompt ? noteList(prompt) : undefined };
    const call = (piece: Piece) =>
      pythonCall("compose", {
        ...(prompt ? { prompt: FILE } : {}),
        ...values,
        ...(streams(model) ? {} : { model }), // the streaming model composes the same notes as the client's default, `music_transformer`
        seed: piece.seed ?? undefined,
      });
    if (!streams(model)) {
      const piece = await api.compose({ ...body, model }, { signal: abort });
      showResult(scoreOf(piece), piece, "compose", {});
      python.value = call(piece);
      if (aloud) playScore(before);
      return;
    }
    let current: Score | null = null;
    composing.value = true;
    try {
      for await (const event of composeStream({ ...body, stream_model: model }, { signal: abort })) {
        if (event.name === "bars") {
          if (current === null) {
            current = prompt ?? { ...EMPTY, tempoQpm: settings.value.tempoQpm, nFrames: 1 };
            change(current);
            python.value = "";
            if (aloud) playScore(before);
          }
          current = appended(current, event.data);
          score.value = current;
          if (firstBarMs.value === null && current.nFrames - before >= current.framesPerBar) {
            firstBarMs.value = Math.round(performance.now() - start);
          }
        } else if (event.name === "piece") {
          score.value = scoreOf(event.data);
          lastSeed.value = event.data.seed ?? null;
          python.value = call(event.data);
        }
      }
    } finally {
      composing.value = false;
    }
  });
}

export async function infill(): Promise<void> {
  const bars = selection.value;
  if (!bars) return;
  await task.run(async (abort) => {
    const piece = await api.infill({ file: noteList(score.value), bars, ...samplingOptions() }, { signal: abort });
    showResult(scoreOf(piece), piece, "infill", { score: FILE, bars, ...samplingOptions() });
  });
}

/** Compose other voices for the score, or for its highest voice. */
export async function harmonize(): Promise<void> {
  await task.run(async (abort) => {
    const values = { highest: isPolyphonic(score.value) || undefined, ...samplingOptions() };
    const piece = await api.harmonize({ file: noteList(score.value), ...values }, { signal: abort });
    showResult(scoreOf(piece), piece, "harmonize", { melody: FILE, ...values });
  });
}

/** Return two bars for the latent model, which begin with the first selected bar, or else with the first bar. */
export function twoBars(): { bars: [first: number, end: number]; score: Score } {
  const first = selection.value?.[0] ?? 0;
  const end = Math.min(first + N_LATENT_BARS, nBars(score.value));
  return { bars: [first, end], score: excerpt(score.value, first, end) };
}

function fileOfBars([first, end]: [number, number]): string {
  return `bars-${first + 1}-${end}.mid`;
}

/** Replace two bars by a variation of them. */
export async function vary(attribute: string, amount: number): Promise<void> {
  const { bars, score: two } = twoBars();
  await task.run(async (abort) => {
    const values = { attribute, amount, tempo_qpm: settings.value.tempoQpm };
    const piece = await api.vary({ file: noteList(two), ...values }, { signal: abort });
    const varied = scoreOf(piece);
    showResult(replaced(score.value, ...bars, varied) ?? varied, piece, "vary", { score: fileOfBars(bars), ...values });
  });
}

/** Interpolate between two bars of the score and the remembered bars. */
export async function interpolate(steps: number): Promise<void> {
  const to = rememberedBars.value;
  if (!to) return;
  const { bars, score: two } = twoBars();
  await task.run(async (abort) => {
    const body = { a: noteList(two), b: noteList(to), steps };
    ideas.value = (await api.interpolate(body, { signal: abort })).map(scoreOf);
    python.value = pythonCall("interpolate", { a: fileOfBars(bars), b: "remembered.mid", steps });
  });
}

/** Sample pieces of two bars. */
export async function sample(n: number): Promise<void> {
  const { key, mode, density, tempoQpm, seed } = settings.value;
  await task.run(async (abort) => {
    const values = {
      n,
      key: key || undefined,
      mode: mode || undefined,
      density: density || undefined,
      tempo_qpm: tempoQpm,
      seed: seedOf(seed),
    };
    const pieces = await api.sample(values, { signal: abort });
    ideas.value = pieces.map(scoreOf);
    lastSeed.value = pieces[0]?.seed ?? null;
    python.value = pythonCall("sample", { ...values, seed: lastSeed.value ?? undefined });
  });
}

/** Read a file as the score. */
export async function open(file: File): Promise<void> {
  await task.run(async (abort) => {
    const read = scoreOf(await api.readScore(file, { signal: abort }));
    stop();
    change(read);
    adoptTempo(read);
    python.value = "";
  });
}

export async function download(mediaType: string, suffix: string): Promise<void> {
  await task.run(async (abort) => {
    const file = await api.convert(noteList(score.value), mediaType, {
      signal: abort,
      instruments: instrumented(score.value).instruments,
    });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `tritone.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}
