/** The most probable labels over time, one column for each window of three seconds. */

import type { Classification } from "../../api/client";
import { formatTime, t } from "../../i18n";

const MOST = 5;

interface Props {
  result: Classification;
  positionS: number;
  onSeek: (timeS: number) => void;
}

export function Timeline({ result, positionS, onSeek }: Props) {
  const labels = Object.keys(result.probabilities).slice(0, MOST);
  return (
    <div class="timeline">
      <table>
        <caption>{t("listen.timeline")}</caption>
        <thead>
          <tr>
            <td />
            {result.timeline.map((window, index) => {
              const end = result.timeline[index + 1]?.start_s ?? result.duration_s;
              const isNow = positionS >= window.start_s && positionS < end;
              return (
                <th key={window.start_s} scope="col" aria-current={isNow ? "time" : undefined}>
                  <button
                    type="button"
                    aria-label={t("listen.playFrom", { time: formatTime(window.start_s) })}
                    onClick={() => onSeek(window.start_s)}
                  >
                    {formatTime(window.start_s)}
                  </button>
                </th>
              );
            })}
          </tr>
        </thead>
        <tbody>
          {labels.map((label) => (
            <tr key={label}>
              <th scope="row">{label}</th>
              {result.timeline.map((window) => {
                const value = window.probabilities[label] ?? 0;
                return (
                  <td key={window.start_s} title={`${label} ${Math.round(100 * value)} %`}>
                    <span class="cell" style={{ opacity: 0.08 + 0.92 * value }} />
                    <span class="visually-hidden">{Math.round(100 * value)} %</span>
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
