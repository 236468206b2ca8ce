/** The score in work, its history for undo, and the settings; all of it survives a reload. */

import { computed, signal } from "@preact/signals";

import { barStarts, EMPTY, HIGHEST_PITCH, LOWEST_PITCH, nBars, type Note, type Score } from "../../music/notes";
import { isNumber, isString, persisted } from "../../state/persisted";

const MOST_STEPS = 100;

export interface Settings {
  model: string;
  bars: number;
  temperature: number;
  topP: number;
  seed: string;
  style: string;
  key: string;
  mode: "" | "major" | "minor";
  density: number;
  tempoQpm: number;
}

const DEFAULTS: Settings = {
  model: "",
  bars: 8,
  temperature: 1,
  topP: 1,
  seed: "",
  style: "",
  key: "",
  mode: "",
  density: 0,
  tempoQpm: 120,
};

export const score = persisted<Score>("write.score", EMPTY, isScore);
export const settings = persisted<Settings>("write.settings", DEFAULTS, isSettings);
/** The two bars to interpolate to. */
export const other = persisted<Score | null>(
  "write.other",
  null,
  (value): value is Score | null => value === null || isScore(value),
);
/** The pieces of the last interpolation or sampling, to choose from. */
export const choices = persisted<Score[]>(
  "write.choices",
  [],
  (value): value is Score[] => Array.isArray(value) && value.every(isScore),
);
/** The length of a note that is clicked into the piano roll, in quarter notes. */
export const noteLength = persisted("write.noteLength", 0.5, isNumber);
export const selection = signal<[first: number, end: number] | null>(null);
export const python = persisted("write.python", "", isString);

const before = signal<Score[]>([]);
const after = signal<Score[]>([]);

export const canUndo = computed(() => before.value.length > 0);
export const canRedo = computed(() => after.value.length > 0);

/** Return where playing begins: at the selected bars, else at the start. */
export function startFrame(): number {
  return selection.value ? (barStarts(score.value)[selection.value[0]] ?? 0) : 0;
}

/** Replace the score by another one, so that undo returns to it. */
export function change(next: Score): void {
  before.value = [...before.value.slice(1 - MOST_STEPS), score.value];
  after.value = [];
  show(next);
}

/** Show a score; the selected bars stay selected if it has them. */
function show(next: Score): void {
  score.value = next;
  if (selection.value && selection.value[1] > nBars(next)) selection.value = null;
}

export function undo(): void {
  const previous = before.value.at(-1);
  if (!previous) return;
  before.value = before.value.slice(0, -1);
  after.value = [...after.value, score.value];
  show(previous);
}

export function redo(): void {
  const next = after.value.at(-1);
  if (!next) return;
  after.value = after.value.slice(0, -1);
  before.value = [...before.value, score.value];
  show(next);
}

/** Set the tempo of new music, and of the score, which sounds the same otherwise. */
export function setTempo(tempoQpm: number): void {
  set("tempoQpm", tempoQpm);
  score.value = { ...score.value, tempoQpm };
}

export function set<K extends keyof Settings>(name: K, value: Settings[K]): void {
  settings.value = { ...settings.value, [name]: value };
}

function isScore(value: unknown): value is Score {
  const it = value as Score | null;
  const whole = (number: unknown, least: number): boolean => Number.isInteger(number) && (number as number) >= least;
  return (
    typeof it === "object" &&
    it !== null &&
    Array.isArray(it.notes) &&
    whole(it.framesPerQuarter, 1) &&
    whole(it.framesPerBar, 1) &&
    whole(it.firstFrameInBar, 0) &&
    whole(it.nFrames, 1) &&
    typeof it.tempoQpm === "number" &&
    it.notes.every((note) => isNote(note, it.nFrames))
  );
}

function isNote(value: unknown, nFrames: number): value is Note {
  if (!Array.isArray(value) || value.length !== 3 || !value.every(Number.isInteger)) return false;
  const [onset, length, pitch] = value as Note;
  return onset >= 0 && length > 0 && onset + length <= nFrames && pitch >= LOWEST_PITCH && pitch <= HIGHEST_PITCH;
}

function isSettings(value: unknown): value is Settings {
  if (typeof value !== "object" || value === null) return false;
  return Object.entries(DEFAULTS).every(([name, each]) => typeof (value as Record<string, unknown>)[name] === typeof each);
}
