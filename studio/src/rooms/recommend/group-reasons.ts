/** Groups the reasons that several base models give for a track. */

import type { Recommendations } from "../../api/client";

export type Reason = Recommendations["recommendations"][number]["reasons"][number];

const MAX_REASONS = 3;

/** Return one reason for each cause with the sum of its amounts, the largest first; at most `MAX_REASONS`. */
export function groupByCause(reasons: readonly Reason[]): Reason[] {
  const found = new Map<string, Reason>();
  for (const reason of reasons) {
    const cause = JSON.stringify([reason.because, reason.id]);
    const amount = (found.get(cause)?.amount ?? 0) + reason.amount;
    found.set(cause, { ...reason, amount });
  }
  return [...found.values()].sort((a, b) => Math.abs(b.amount) - Math.abs(a.amount)).slice(0, MAX_REASONS);
}
