/** State of the room Write: the score and the settings, which survive a reload. */

import { signal } from "@preact/signals";

import { ENSEMBLES, isEnsemble } from "../../music/instruments";
import { barStarts, EMPTY, isScore, nBars, type Score } from "../../music/notes";
import { isBoolean, isNumber, isString, persisted } from "../../state/local-storage";
import { remember, stepBack, stepForward } from "./history";

export const LOWEST_QPM = 40;
export const HIGHEST_QPM = 220;

export interface Settings {
  model: string;
  bars: number;
  /** 0 for that of the model. */
  temperature: number;
  topP: number;
  seed: string;
  style: string;
  /** A choice of `ENSEMBLES`; empty for the instruments of the style. */
  instruments: string;
  key: string;
  mode: "" | "major" | "minor";
  density: number;
  tempoQpm: number;
  /** What a composition is asked to be; empty for what the model chooses. */
  pieceKey: string;
  pieceMode: "" | "major" | "minor";
  pieceDensity: "" | "low" | "medium" | "high";
  structure: string;
  ending: "" | "open";
}

const DEFAULTS: Settings = {
  model: "",
  bars: 8,
  temperature: 0,
  topP: 1,
  seed: "",
  style: "",
  instruments: "",
  key: "",
  mode: "",
  density: 0,
  tempoQpm: 120,
  pieceKey: "",
  pieceMode: "",
  pieceDensity: "",
  structure: "",
  ending: "",
};

export const score = persisted<Score>("write.score", EMPTY, isScore);
export const settings = persisted<Settings>("write.settings", DEFAULTS, isSettings);
/** The two bars to interpolate to. */
export const rememberedBars = persisted<Score | null>(
  "write.other",
  null,
  (value): value is Score | null => value === null || isScore(value),
);
/** The pieces of the last interpolation or sampling. */
export const ideas = persisted<Score[]>(
  "write.ideas",
  [],
  (value): value is Score[] => Array.isArray(value) && value.every(isScore),
);
/** The length of a note that is clicked into the piano roll, in quarter notes. */
export const noteLength = persisted("write.noteLength", 0.5, isNumber);
export const selection = signal<[first: number, end: number] | null>(null);
/** Whether further settings are shown; by default, only on wide screens. */
export const showsMore = persisted("write.more", globalThis.matchMedia?.("(min-width: 60rem)").matches ?? true, isBoolean);
export const python = persisted("write.python", "", isString);

/** Return the time step at which playback starts: at the selected bars, or else 0. */
export function startFrame(): number {
  return selection.value ? (barStarts(score.value)[selection.value[0]] ?? 0) : 0;
}

/** Return the instruments that the reader has chosen; undefined for those of the style. */
export function chosenInstruments(): readonly string[] | undefined {
  const name = settings.value.instruments;
  return isEnsemble(name) ? ENSEMBLES[name] : undefined;
}

/** Return a score with the instruments that play it. */
export function instrumented(of: Score): Score {
  return { ...of, instruments: chosenInstruments() ?? of.instruments };
}

/** Replace the score, as a step that can be undone. */
export function change(next: Score): void {
  remember(score.value);
  show(next);
}

/** Show a score; the selection is kept if the score has the selected bars. */
function show(next: Score): void {
  score.value = next;
  if (selection.value && selection.value[1] > nBars(next)) selection.value = null;
}

export function undo(): void {
  const previous = stepBack(score.value);
  if (previous) show(previous);
}

export function redo(): void {
  const next = stepForward(score.value);
  if (next) show(next);
}

/** Set the tempo of new music to that of a score, within the range of the slider. */
export function adoptTempo({ tempoQpm }: Score): void {
  set("tempoQpm", Math.min(Math.max(Math.round(tempoQpm), LOWEST_QPM), HIGHEST_QPM));
}

/** Set the tempo of new music and of the current score. */
export function setTempo(tempoQpm: number): void {
  set("tempoQpm", tempoQpm);
  score.value = { ...score.value, tempoQpm };
}

export function set<K extends keyof Settings>(name: K, value: Settings[K]): void {
  settings.value = { ...settings.value, [name]: value };
}

function isSettings(value: unknown): value is Settings {
  if (typeof value !== "object" || value === null) return false;
  return Object.entries(DEFAULTS).every(([name, each]) => typeof (value as Record<string, unknown>)[name] === typeof each);
}
