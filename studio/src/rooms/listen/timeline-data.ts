/** Data of the timeline plot: passages with one label, and curves of labels and emotions. */

import type { Classification } from "../../api/client";

type Window = Classification["timeline"][number];

/** Part of a recording in which one label is the most probable. */
export interface Passage {
  startS: number;
  endS: number;
  label: string;
}

/** Return the label of a window with the largest probability. */
export function mostProbable(window: Window): string {
  return Object.entries(window.probabilities).reduce((best, each) => (each[1] > best[1] ? each : best), ["", -1])[0];
}

/** Return where a window ends: at the next one, or at the end of the recording. */
export function endOf(timeline: readonly Window[], index: number, durationS: number): number {
  return timeline[index + 1]?.start_s ?? durationS;
}

/** Return the passages in order of time; consecutive windows with the same label form one passage. */
export function passages(timeline: readonly Window[], durationS: number): Passage[] {
  const found: Passage[] = [];
  timeline.forEach((window, index) => {
    const label = mostProbable(window);
    const endS = endOf(timeline, index, durationS);
    const last = found.at(-1);
    if (last?.label === label) last.endS = endS;
    else found.push({ startS: window.start_s, endS, label });
  });
  return found;
}

/** Return the SVG path of a step plot: time from left to right, in a box of height 1 with the value 1 at the top. */
export function area(timeline: readonly Window[], valueOf: (window: Window) => number, durationS: number): string {
  const steps = timeline.map((window, index) => {
    const top = 1 - Math.min(Math.max(valueOf(window), 0), 1);
    return `L${window.start_s} ${top}L${endOf(timeline, index, durationS)} ${top}`;
  });
  return steps.length ? `M0 1${steps.join("")}L${durationS} 1Z` : "";
}

/** A value over time. */
export interface Curve {
  name: string;
  valueOf: (window: Window) => number;
}

/** Return the curves of the most probable labels. */
export function labelCurves(result: Classification, most: number): Curve[] {
  return curves(result.probabilities, most, (window) => window.probabilities);
}

/** Return the curves of the strongest emotions; empty if the result has no emotions for each window. */
export function emotionCurves(result: Classification, most: number): Curve[] {
  if (!result.timeline.every((window) => window.emotions)) return [];
  return curves(result.emotions ?? {}, most, (window) => window.emotions ?? {});
}

function curves(means: Record<string, number>, most: number, valuesOf: (window: Window) => Record<string, number>) {
  return Object.keys(means)
    .slice(0, most)
    .map((name): Curve => ({ name, valueOf: (window) => valuesOf(window)[name] ?? 0 }));
}
