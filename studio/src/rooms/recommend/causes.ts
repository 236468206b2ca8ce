/** The reasons of several models, as one for each cause. */

import type { Recommendations } from "../../api/client";

export type Reason = Recommendations["recommendations"][number]["reasons"][number];

const MOST = 3;

/** Return one reason for each cause, the weightiest first; several models may have the same. */
export function byCause(reasons: readonly Reason[]): Reason[] {
  const found = new Map<string, Reason>();
  for (const reason of reasons) {
    const cause = JSON.stringify([reason.because, reason.id]);
    const amount = (found.get(cause)?.amount ?? 0) + reason.amount;
    found.set(cause, { ...reason, amount });
  }
  return [...found.values()].sort((a, b) => Math.abs(b.amount) - Math.abs(a.amount)).slice(0, MOST);
}
