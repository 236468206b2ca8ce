/** Scores as notes on a time grid: conversion from and to the gateway's format, and editing. */

import type { Piece, Schemas } from "../api/client";

/** Onset and length in time steps, and the MIDI pitch. */
export type Note = [onset: number, length: number, pitch: number];

export interface Score {
  notes: Note[];
  framesPerQuarter: number;
  framesPerBar: number;
  firstFrameInBar: number;
  meter: [number, number] | null;
  tempoQpm: number;
  nFrames: number;
  /** General MIDI names from the highest part down; the piano if left out. */
  instruments?: readonly string[];
}

export const LOWEST_PITCH = 21;
export const HIGHEST_PITCH = 108;

export const EMPTY: Score = {
  notes: [],
  framesPerQuarter: 4,
  framesPerBar: 16,
  firstFrameInBar: 0,
  meter: [4, 4],
  tempoQpm: 120,
  nFrames: 32,
};

const MAX_FRAMES = 100_000; // the piano roll cannot draw more

/** Return whether a value, for example from the browser's storage, is a valid score. */
export function isScore(value: unknown): value is Score {
  const it = value as Score | null;
  return (
    typeof it === "object" &&
    it !== null &&
    isIntegerFrom(it.framesPerQuarter, 1) &&
    isIntegerFrom(it.framesPerBar, 1) &&
    isIntegerFrom(it.firstFrameInBar, 0) &&
    it.firstFrameInBar < it.framesPerBar &&
    isIntegerFrom(it.nFrames, 1) &&
    it.nFrames <= MAX_FRAMES &&
    Number.isFinite(it.tempoQpm) &&
    it.tempoQpm > 0 &&
    (it.meter === null || (Array.isArray(it.meter) && it.meter.length === 2 && it.meter.every((n) => isIntegerFrom(n, 1)))) &&
    (it.instruments === undefined || areNames(it.instruments)) &&
    Array.isArray(it.notes) &&
    it.notes.every((note) => isNote(note, it.nFrames))
  );
}

function areNames(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((each) => typeof each === "string");
}

function isNote(value: unknown, nFrames: number): value is Note {
  if (!Array.isArray(value) || value.length !== 3 || !value.every(Number.isInteger)) return false;
  const [onset, length, pitch] = value as Note;
  return onset >= 0 && length > 0 && onset + length <= nFrames && pitch >= LOWEST_PITCH && pitch <= HIGHEST_PITCH;
}

function isIntegerFrom(value: unknown, least: number): boolean {
  return Number.isInteger(value) && (value as number) >= least;
}

export function scoreOf(piece: Piece | Schemas["PieceChunk"]): Score {
  const meter = piece.meter;
  return {
    notes: piece.notes.map(([onset = 0, length = 1, pitch = 60]) => [onset, length, pitch]),
    framesPerQuarter: piece.frames_per_quarter,
    framesPerBar: piece.frames_per_bar || 4 * piece.frames_per_quarter,
    firstFrameInBar: piece.first_frame_in_bar,
    meter: meter && meter.length === 2 ? [meter[0] as number, meter[1] as number] : null,
    tempoQpm: piece.tempo_qpm,
    nFrames: piece.n_frames,
    ...("instruments" in piece ? { instruments: piece.instruments } : {}),
  };
}

/** Return a score in the request format of the gateway. */
export function noteList(score: Score): Schemas["NoteList"] {
  return {
    notes: score.notes,
    frames_per_quarter: score.framesPerQuarter,
    frames_per_bar: score.framesPerBar,
    first_frame_in_bar: score.firstFrameInBar,
    meter: score.meter,
    tempo_qpm: score.tempoQpm,
    n_frames: score.nFrames,
  };
}

/** Return a score with a chunk appended; notes that the chunk continues become longer. */
export function appended(score: Score, chunk: Schemas["PieceChunk"]): Score {
  const start = chunk.first_frame;
  const held = new Set(chunk.held_pitches);
  const notes = score.notes.map((note): Note => [...note]);
  for (const [onset = 0, length = 1, pitch = 60] of chunk.notes) {
    const previous =
      onset === 0 && held.has(pitch) ? notes.findLast(([at, long, of]) => of === pitch && at + long === start) : undefined;
    if (previous) previous[1] += length;
    else notes.push([start + onset, length, pitch]);
  }
  return { ...score, ...scoreOf(chunk), notes, firstFrameInBar: score.firstFrameInBar, nFrames: start + chunk.n_frames };
}

export function durationS(score: Score): number {
  return (score.nFrames / score.framesPerQuarter) * (60 / score.tempoQpm);
}

export function secondsPerFrame(score: Score): number {
  return 60 / score.tempoQpm / score.framesPerQuarter;
}

/** Return the first time step of each bar; an upbeat is a bar of its own. */
export function barStarts(score: Score): number[] {
  const starts = [0];
  for (let at = score.framesPerBar - score.firstFrameInBar; at < score.nFrames; at += score.framesPerBar) starts.push(at);
  return starts;
}

/** Return a score with a note added, or removed if there is one; the last bar stays complete. */
export function toggled(score: Score, onset: number, length: number, pitch: number): Score {
  const rest = score.notes.filter(([at, long, of]) => of !== pitch || onset < at || onset >= at + long);
  if (rest.length < score.notes.length) return { ...score, notes: rest };
  const cut = score.notes.map(([at, long, of]): Note =>
    of === pitch && at < onset + length && at + long > onset ? [at, Math.max(1, onset - at), of] : [at, long, of],
  );
  const notes = [...cut, [onset, length, pitch] as Note].sort(byOnset);
  return { ...score, notes, nFrames: Math.max(score.nFrames, endOfBar(score, onset + length)) };
}

/** Return the end of the bar that a time step is in, or the time step itself at a bar line. */
export function endOfBar(score: Score, frame: number): number {
  const shifted = frame + score.firstFrameInBar;
  return Math.ceil(shifted / score.framesPerBar) * score.framesPerBar - score.firstFrameInBar;
}

/** Return a range of bars as a new score. */
export function excerpt(score: Score, firstBar: number, endBar: number): Score {
  const starts = [...barStarts(score), score.nFrames];
  const from = starts[firstBar] ?? 0;
  const to = starts[endBar] ?? score.nFrames;
  const notes = score.notes
    .filter(([onset]) => onset >= from && onset < to)
    .map(([onset, length, pitch]): Note => [onset - from, Math.min(length, to - onset), pitch]);
  return { ...score, notes, nFrames: to - from, firstFrameInBar: firstBar === 0 ? score.firstFrameInBar : 0 };
}

/** Return a score with a range of bars replaced by another score, or null if the lengths differ. */
export function replaced(score: Score, firstBar: number, endBar: number, by: Score): Score | null {
  const starts = [...barStarts(score), score.nFrames];
  const from = starts[firstBar] ?? 0;
  const to = starts[endBar] ?? score.nFrames;
  if (by.nFrames !== to - from || by.framesPerQuarter !== score.framesPerQuarter) return null;
  const kept: Note[] = [];
  for (const [onset, length, pitch] of score.notes) {
    const end = onset + length;
    if (onset < from) kept.push([onset, Math.min(length, from - onset), pitch]);
    if (end > to) kept.push([Math.max(onset, to), end - Math.max(onset, to), pitch]);
  }
  const moved = by.notes.map(([onset, length, pitch]): Note => [from + onset, length, pitch]);
  return { ...score, notes: [...kept, ...moved].sort(byOnset) };
}

/** Return whether any notes of a score overlap in time. */
export function isPolyphonic(score: Score): boolean {
  let end = 0;
  for (const [onset, length] of [...score.notes].sort(byOnset)) {
    if (onset < end) return true;
    end = onset + length;
  }
  return false;
}

export function nBars(score: Score): number {
  return barStarts(score).length;
}

function byOnset(a: Note, b: Note): number {
  return a[0] - b[0] || a[2] - b[2];
}

const NAMES = ["C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B"];

export function pitchName(pitch: number): string {
  return `${NAMES[pitch % 12]}${Math.floor(pitch / 12) - 1}`;
}
