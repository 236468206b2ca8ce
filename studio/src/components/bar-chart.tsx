/** Values by name as horizontal bars, largest first. */

import { formatNumber } from "../i18n";

interface Props {
  title: string;
  values: Record<string, number>;
  most?: number;
  /** The value of a full bar; the largest value if left out. */
  full?: number;
}

export function BarChart({ title, values, most = 8, full }: Props) {
  const entries = Object.entries(values)
    .sort((a, b) => b[1] - a[1])
    .slice(0, most);
  const scale = full ?? Math.max(...entries.map(([, value]) => value), 1e-9);
  return (
    <figure class="bar-chart">
      <figcaption>{title}</figcaption>
      <dl>
        {entries.map(([name, value]) => (
          <div key={name} class="bar">
            <dt>{name.replaceAll("_", " ")}</dt>
            <dd>
              <span class="bar-fill" style={{ width: `${Math.min(100, (100 * value) / scale)}%` }} aria-hidden="true" />
              <span class="bar-value">{formatNumber(100 * value, value < 0.1 ? 1 : 0)} %</span>
            </dd>
          </div>
        ))}
      </dl>
    </figure>
  );
}
