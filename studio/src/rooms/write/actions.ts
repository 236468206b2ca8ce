/** What can be done with the score; each action is one call of the gateway. */

import { signal } from "@preact/signals";

import { api, composeStream, type Piece } from "../../api/client";
import { newTask } from "../../components/status";
import { appended, barStarts, EMPTY, excerpt, noteList, scoreOf, type Score } from "../../music/notes";
import { pythonCall } from "./python";
import { change, other, python, score, selection, settings } from "./state";

export const task = newTask();
/** The pieces of the last interpolation or sampling, to choose from. */
export const choices = signal<Score[]>([]);
/** Milliseconds from the request to the first bar of the last composition. */
export const firstBarMs = signal<number | null>(null);
/** Whether a composition is arriving. */
export const composing = signal(false);

const SPAN_BARS = 2;

function sampling() {
  const { temperature, topP, seed, tempoQpm } = settings.value;
  return {
    temperature,
    top_p: topP < 1 ? topP : undefined,
    seed: seed.trim() ? Number(seed) : undefined,
    tempo_qpm: tempoQpm,
  };
}

function styled() {
  return { ...sampling(), style: settings.value.style || undefined };
}

function done(piece: Piece, call: string, values: Record<string, unknown>): void {
  change(scoreOf(piece));
  python.value = pythonCall(call, { ...values, seed: piece.seed ?? undefined });
}

/** Compose from scratch, or continue the score; the notes appear as they arrive. */
export async function compose(fromPrompt: boolean): Promise<void> {
  const prompt = fromPrompt && score.value.notes.length ? score.value : null;
  const values = { bars: settings.value.bars, ...styled() };
  const start = performance.now();
  firstBarMs.value = null;
  await task.run(async (abort) => {
    composing.value = true;
    const base = prompt ?? { ...EMPTY, tempoQpm: settings.value.tempoQpm, nFrames: 1 };
    let begun = false;
    try {
      const body = { ...values, file: prompt ? noteList(prompt) : undefined };
      for await (const event of composeStream(body, { signal: abort })) {
        if (event.name === "bars") {
          if (!begun) {
            change(base);
            begun = true;
            firstBarMs.value = Math.round(performance.now() - start);
          }
          score.value = appended(score.value, event.data);
        } else if (event.name === "piece") {
          score.value = scoreOf(event.data);
          python.value = pythonCall("stream_compose", {
            ...(prompt ? { prompt: "tune.mid" } : {}),
            ...values,
            seed: event.data.seed ?? undefined,
          });
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
    const piece = await api.infill({ file: noteList(score.value), bars, ...styled() }, { signal: abort });
    done(piece, "infill", { score: "tune.mid", bars, ...styled() });
  });
}

export async function harmonize(): Promise<void> {
  await task.run(async (abort) => {
    const piece = await api.harmonize({ file: noteList(score.value), ...styled() }, { signal: abort });
    done(piece, "harmonize", { melody: "tune.mid", ...styled() });
  });
}

/** The two bars that the latent model takes: the selected ones, else the first. */
export function span(): Score {
  const first = selection.value?.[0] ?? 0;
  return excerpt(score.value, first, first + SPAN_BARS);
}

export async function vary(attribute: string, amount: number): Promise<void> {
  const excerptOf = span();
  await task.run(async (abort) => {
    const values = { attribute, amount, tempo_qpm: settings.value.tempoQpm };
    const piece = await api.vary({ file: noteList(excerptOf), ...values }, { signal: abort });
    done(piece, "vary", { score: "tune.mid", ...values });
  });
}

export async function interpolate(steps: number): Promise<void> {
  const to = other.value;
  if (!to) return;
  await task.run(async (abort) => {
    const body = { a: noteList(span()), b: noteList(to), steps };
    choices.value = (await api.interpolate(body, { signal: abort })).map(scoreOf);
    python.value = pythonCall("interpolate", { a: "a.mid", b: "b.mid", steps });
  });
}

export async function sample(n: number): Promise<void> {
  const { key, mode, density, tempoQpm, seed } = settings.value;
  await task.run(async (abort) => {
    const values = {
      n,
      key: key || undefined,
      mode: mode || undefined,
      density: density || undefined,
      tempo_qpm: tempoQpm,
      seed: seed.trim() ? Number(seed) : undefined,
    };
    const pieces = await api.sample(values, { signal: abort });
    choices.value = pieces.map(scoreOf);
    python.value = pythonCall("sample", { ...values, seed: pieces[0]?.seed ?? undefined });
  });
}

export async function open(file: File): Promise<void> {
  await task.run(async (abort) => {
    change(scoreOf(await api.readScore(file, { signal: abort })));
    python.value = "";
  });
}

export async function download(mediaType: string, suffix: string): Promise<void> {
  await task.run(async (abort) => {
    const file = await api.convert(noteList(score.value), mediaType, { signal: abort });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `tritone.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}

export function nBars(): number {
  return barStarts(score.value).length;
}
