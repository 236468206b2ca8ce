/** Labels over time, in the width of the waveform above: passages by name, and a curve for each label. */

import type { Classification } from "../../api/client";
import { formatTime, t } from "../../i18n";
import { area, endOf, passages } from "./windows";

const MOST = 5; // labels, each with a colour of its own
const MIN_PERCENT_FOR_TEXT = 6;

interface Props {
  result: Classification;
  positionS: number;
  onSeek: (timeS: number) => void;
}

export function Timeline({ result, positionS, onSeek }: Props) {
  const labels = Object.keys(result.probabilities).slice(0, MOST);
  const durationS = Math.max(result.duration_s, 1e-3);
  const percent = (timeS: number) => (100 * timeS) / durationS;
  const onClick = (event: MouseEvent) => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    onSeek((durationS * (event.clientX - box.left)) / box.width);
  };
  return (
    <div class="timeline">
      <p class="hint">{t("listen.timeline")}</p>
      <div class="timeline-plot">
        <ol class="passages" aria-label={t("listen.passages")}>
          {passages(result.timeline, durationS).map(({ startS, endS, label }) => {
            const width = percent(endS - startS);
            const text = `${label}, ${formatTime(startS)}`;
            return (
              <li key={startS} style={{ left: `${percent(startS)}%`, width: `${width}%` }}>
                <button
                  type="button"
                  class={`passage label-${labels.indexOf(label)}`}
                  title={text}
                  aria-label={t("listen.playPassage", { label, time: formatTime(startS) })}
                  onClick={() => onSeek(startS)}
                >
                  {width >= MIN_PERCENT_FOR_TEXT ? label : ""}
                </button>
              </li>
            );
          })}
        </ol>
        {/* For the pointer; the passages and the table are for the keyboard. */}
        <div class="lanes" onClick={onClick}>
          {labels.map((label, index) => (
            <div key={label} class={`lane label-${index}`}>
              <svg viewBox={`0 0 ${durationS} 1`} preserveAspectRatio="none" aria-hidden="true">
                <path d={area(result.timeline, label, durationS)} />
              </svg>
              <span class="lane-name">{label}</span>
            </div>
          ))}
        </div>
        <div class="timeline-cursor" style={{ left: `${Math.min(percent(positionS), 100)}%` }} aria-hidden="true" />
      </div>
      <details>
        <summary>{t("listen.table")}</summary>
        <WindowTable result={result} labels={labels} positionS={positionS} onSeek={onSeek} />
      </details>
    </div>
  );
}

function WindowTable({ result, labels, positionS, onSeek }: Props & { labels: string[] }) {
  return (
    <div class="scroll tall" tabIndex={0} role="region" aria-label={t("listen.table")}>
      <table class="data">
        <thead>
          <tr>
            <th scope="col">{t("listen.time")}</th>
            {labels.map((label) => (
              <th key={label} scope="col" class="number">
                {label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {result.timeline.map((window, index) => {
            const isNow =
              positionS >= window.start_s && positionS < endOf(result.timeline, index, result.duration_s);
            return (
              <tr key={window.start_s} aria-current={isNow ? "time" : undefined}>
                <th scope="row">
                  <button
                    type="button"
                    class="button small"
                    aria-label={t("listen.playFrom", { time: formatTime(window.start_s) })}
                    onClick={() => onSeek(window.start_s)}
                  >
                    {formatTime(window.start_s)}
                  </button>
                </th>
                {labels.map((label) => (
                  <td key={label} class="number">
                    {Math.round(100 * (window.probabilities[label] ?? 0))} %
                  </td>
                ))}
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}
