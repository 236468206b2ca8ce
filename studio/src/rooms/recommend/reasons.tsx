/** Reasons for a recommendation, as text and as bars that show their weights. */

import { t, type Key } from "../../i18n";
import { groupByCause, type Reason } from "./group-reasons";

const WORDS: Record<string, Key> = {
  history: "reason.history",
  friend: "reason.friend",
  friends_listening: "reason.friends_listening",
  tag: "reason.tag",
  audio: "reason.audio",
  mood: "reason.mood",
  listeners: "reason.listeners",
  popularity: "reason.popularity",
  cold_item: "reason.cold_item",
  diversity: "reason.diversity",
  novelty: "reason.novelty",
};
// Texts for reasons without an id, from base models that cannot name a single cause.
const UNNAMED: Record<string, Key> = {
  history: "reason.taste",
  friend: "reason.friends",
  friends_listening: "reason.friends",
  tag: "reason.tags",
};
const MAX_WIDTH_PX = 48;

export function Reasons({ reasons: all }: { reasons: readonly Reason[] }) {
  const reasons = groupByCause(all);
  if (!reasons.length) return null;
  const scale = Math.max(...reasons.map((reason) => Math.abs(reason.amount)), 1e-9);
  return (
    <ul class="reasons" aria-label={t("recommend.reasons")}>
      {reasons.map((reason, index) => (
        <li key={index}>
          <span class="reason-scale" aria-hidden="true">
            <span
              class={reason.amount < 0 ? "reason-bar negative" : "reason-bar"}
              style={{ width: `${Math.round((MAX_WIDTH_PX * Math.abs(reason.amount)) / scale)}px` }}
            />
          </span>
          <span>{wordsOf(reason)}</span>
        </li>
      ))}
    </ul>
  );
}

function wordsOf(reason: Reason): string {
  const words = (reason.id ? undefined : UNNAMED[reason.because]) ?? WORDS[reason.because];
  return words ? t(words, { name: reason.title ?? reason.id }) : reason.because.replaceAll("_", " ");
}
