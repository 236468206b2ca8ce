/** The instruments that play a score: choices of the page, programs of General MIDI, and who plays which note. */

import type { Note } from "./notes";

/** Choices of the page, from the highest part down. */
export const ENSEMBLES = {
  piano: ["Acoustic Grand Piano"],
  choir: ["Choir Aahs"],
  organ: ["Church Organ"],
  strings: ["Violin", "Viola", "Cello", "Contrabass"],
  fiddle: ["Violin", "Acoustic Guitar (nylon)"],
  flute: ["Flute", "Acoustic Guitar (nylon)"],
} as const satisfies Record<string, readonly string[]>;
export type Ensemble = keyof typeof ENSEMBLES;

const PROGRAMS: Record<string, number> = {
  "Acoustic Grand Piano": 0,
  "Church Organ": 19,
  "Acoustic Guitar (nylon)": 24,
  Violin: 40,
  Viola: 41,
  Cello: 42,
  Contrabass: 43,
  "Choir Aahs": 52,
  Flute: 73,
};

export function isEnsemble(name: string): name is Ensemble {
  return Object.hasOwn(ENSEMBLES, name);
}

/** Return the General MIDI program of an instrument; the piano's for those that the page does not offer. */
export function programOf(instrument: string): number {
  return PROGRAMS[instrument] ?? 0;
}

/** Return the part of a note, 0 for the highest, by the notes that sound when it begins. */
export function partOf([onset, , pitch]: Note, notes: readonly Note[], nParts: number): number {
  let above = 0;
  let below = 0;
  for (const [at, length, of] of notes) {
    if (at > onset || at + length <= onset) continue;
    if (of > pitch) above += 1;
    else if (of < pitch) below += 1;
  }
  const last = nParts - 1;
  if (above === 0) return 0;
  return below === 0 ? last : Math.min(above, Math.max(last - 1, Math.min(1, last)));
}
