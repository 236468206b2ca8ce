/** Labels and emotions over time, aligned with the waveform: labelled passages, and a curve for each. */

import type { Classification } from "../../api/client";
import { formatTime, t } from "../../i18n";
import { area, emotionCurves, endOf, labelCurves, passages, type Curve } from "./timeline-data";

const MOST_LABELS = 5; // each has its own colour
const MOST_EMOTIONS = 5;
const MIN_PERCENT_FOR_TEXT = 6;

interface Props {
  result: Classification;
  positionS: number;
  onSeek: (timeS: number) => void;
}

export function Timeline({ result, positionS, onSeek }: Props) {
  const labels = labelCurves(result, MOST_LABELS);
  const emotions = emotionCurves(result, MOST_EMOTIONS);
  const names = labels.map((each) => each.name);
  const durationS = Math.max(result.duration_s, 1e-3);
  const percent = (timeS: number) => (100 * timeS) / durationS;
  return (
    <div class="timeline">
      <p class="hint">{t("listen.timeline")}</p>
      <div class="timeline-plot">
        <ol class="passages" aria-label={t("listen.passages")}>
          {passages(result.timeline, durationS).map(({ startS, endS, label }) => {
            const width = percent(endS - startS);
            return (
              <li key={startS} style={{ left: `${percent(startS)}%`, width: `${width}%` }}>
                <button
                  type="button"
                  class={`passage label-${names.indexOf(label)}`}
                  title={`${label}, ${formatTime(startS)}`}
                  aria-label={t("listen.playPassage", { label, time: formatTime(startS) })}
                  onClick={() => onSeek(startS)}
                >
                  {width >= MIN_PERCENT_FOR_TEXT ? label : ""}
                </button>
              </li>
            );
          })}
        </ol>
        <CurveRows result={result} curves={labels} classOf={(index) => `label-${index}`} onSeek={onSeek} />
        {emotions.length > 0 && (
          <>
            <p class="hint">{t("listen.emotionsOverTime")}</p>
            <CurveRows result={result} curves={emotions} classOf={() => "emotion"} onSeek={onSeek} />
          </>
        )}
        <div class="timeline-cursor" style={{ left: `${Math.min(percent(positionS), 100)}%` }} aria-hidden="true" />
      </div>
      <details>
        <summary>{t("listen.table")}</summary>
        <WindowTable result={result} curves={[...labels, ...emotions]} positionS={positionS} onSeek={onSeek} />
      </details>
    </div>
  );
}

interface CurveRowsProps {
  result: Classification;
  curves: Curve[];
  classOf: (index: number) => string;
  onSeek: (timeS: number) => void;
}

/** Curves in rows, clickable with the pointer; keyboard users have the passages and the table. */
function CurveRows({ result, curves, classOf, onSeek }: CurveRowsProps) {
  const durationS = Math.max(result.duration_s, 1e-3);
  const onClick = (event: MouseEvent) => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    onSeek((durationS * (event.clientX - box.left)) / box.width);
  };
  return (
    <div class="curves" onClick={onClick}>
      {curves.map(({ name, valueOf }, index) => (
        <div key={name} class={`curve ${classOf(index)}`}>
          <svg viewBox={`0 0 ${durationS} 1`} preserveAspectRatio="none" aria-hidden="true">
            <path d={area(result.timeline, valueOf, durationS)} />
          </svg>
          <span class="curve-name">{name.replaceAll("_", " ")}</span>
        </div>
      ))}
    </div>
  );
}

function WindowTable({ result, curves, positionS, onSeek }: Props & { curves: Curve[] }) {
  return (
    <div class="scroll tall" tabIndex={0} role="region" aria-label={t("listen.table")}>
      <table class="data">
        <thead>
          <tr>
            <th scope="col">{t("listen.time")}</th>
            {curves.map(({ name }, column) => (
              <th key={column} scope="col" class="number">
                {name.replaceAll("_", " ")}
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
                {curves.map(({ valueOf }, column) => (
                  <td key={column} class="number">
                    {Math.round(100 * valueOf(window))} %
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
