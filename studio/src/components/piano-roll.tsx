/** A piano roll: notes as bars over time, edited with the pointer or the keyboard. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { t } from "../i18n";
import { barStarts, HIGHEST_PITCH, LOWEST_PITCH, pitchName, toggled, type Score } from "../music/notes";

const ROW = 9;
const STEP = 11;
const MIN_ROWS = 25;
const MARGIN_ROWS = 3;

interface Props {
  score: Score;
  position: number;
  selection: [number, number] | null;
  label: string;
  onChange?: (score: Score, pitch: number) => void;
  onSelect?: (bars: [number, number] | null) => void;
  onSeek?: (frame: number) => void;
}

export function PianoRoll({ score, position, selection, label, onChange, onSelect, onSeek }: Props) {
  const [low, high] = useMemo(() => pitchRange(score), [score]);
  const [cursor, setCursor] = useState<[frame: number, pitch: number]>([0, 60]);
  const [focused, setFocused] = useState(false);
  const scroller = useRef<HTMLDivElement>(null);
  const starts = barStarts(score);
  const rows = high - low + 1;
  const width = score.nFrames * STEP;
  const height = rows * ROW;

  useEffect(() => {
    const box = scroller.current;
    if (!box || position === 0) return;
    const x = position * STEP;
    if (x < box.scrollLeft || x > box.scrollLeft + box.clientWidth * 0.85) box.scrollLeft = x - box.clientWidth * 0.15;
  }, [position]);

  const toggle = (frame: number, pitch: number) => {
    if (!onChange || pitch < LOWEST_PITCH || pitch > HIGHEST_PITCH) return;
    onChange(toggled(score, frame, Math.max(1, score.framesPerQuarter / 2), pitch), pitch);
  };

  const onPointer = (event: PointerEvent) => {
    const box = (event.currentTarget as SVGElement).getBoundingClientRect();
    const frame = Math.floor((event.clientX - box.left) / STEP);
    const pitch = high - Math.floor((event.clientY - box.top) / ROW);
    setCursor([frame, pitch]);
    toggle(frame, pitch);
  };

  const onKey = (event: KeyboardEvent) => {
    const [frame, pitch] = cursor;
    const moves: Record<string, [number, number]> = {
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
      ArrowUp: [0, 1],
      ArrowDown: [0, -1],
    };
    const move = moves[event.key];
    if (move) {
      const factor = event.shiftKey ? (move[0] ? score.framesPerQuarter : 12) : 1;
      setCursor([
        clamp(frame + move[0] * factor, 0, score.nFrames - 1),
        clamp(pitch + move[1] * factor, LOWEST_PITCH, HIGHEST_PITCH),
      ]);
    } else if (event.key === "Enter" || event.key === "Delete") {
      toggle(frame, pitch);
    } else {
      return;
    }
    event.preventDefault();
  };

  const selectBar = (bar: number, extend: boolean) => {
    if (!onSelect) return;
    if (extend && selection) onSelect([Math.min(selection[0], bar), Math.max(selection[1], bar + 1)]);
    else if (selection && selection[0] === bar && selection[1] === bar + 1) onSelect(null);
    else onSelect([bar, bar + 1]);
  };

  return (
    <div class="roll" ref={scroller}>
      <div class="roll-bars" style={{ width: `${width}px` }}>
        {starts.map((start, bar) => {
          const end = starts[bar + 1] ?? score.nFrames;
          const isSelected = selection !== null && bar >= selection[0] && bar < selection[1];
          return (
            <button
              key={bar}
              type="button"
              class="roll-bar"
              style={{ left: `${start * STEP}px`, width: `${(end - start) * STEP}px` }}
              aria-pressed={onSelect ? isSelected : undefined}
              aria-label={t(onSelect ? "roll.selectBar" : "roll.playBar", { bar: bar + 1 })}
              onClick={(event) => {
                if (event.altKey || !onSelect) onSeek?.(start);
                else selectBar(bar, event.shiftKey);
              }}
            >
              {bar + 1}
            </button>
          );
        })}
      </div>
      <svg
        class="roll-notes"
        width={width}
        height={height}
        viewBox={`0 0 ${width} ${height}`}
        tabIndex={0}
        role={onChange ? "application" : "img"}
        aria-label={`${label}. ${t("roll.summary", { notes: score.notes.length, bars: starts.length })}`}
        aria-description={onChange ? t("roll.keys") : undefined}
        onPointerDown={onChange ? onPointer : undefined}
        onKeyDown={onChange ? onKey : undefined}
        onFocus={() => setFocused(true)}
        onBlur={() => setFocused(false)}
      >
        {Array.from({ length: rows }, (_, row) =>
          isBlackKey(high - row) ? (
            <rect key={row} class="roll-black" x={0} y={row * ROW} width={width} height={ROW} />
          ) : null,
        )}
        {Array.from({ length: Math.ceil(score.nFrames / score.framesPerQuarter) }, (_, beat) => (
          <line
            key={beat}
            class="roll-beat"
            x1={beat * score.framesPerQuarter * STEP}
            x2={beat * score.framesPerQuarter * STEP}
            y1={0}
            y2={height}
          />
        ))}
        {starts.map((start) => (
          <line key={start} class="roll-line" x1={start * STEP} x2={start * STEP} y1={0} y2={height} />
        ))}
        {selection && (
          <rect
            class="roll-selection"
            x={(starts[selection[0]] ?? 0) * STEP}
            y={0}
            width={((starts[selection[1]] ?? score.nFrames) - (starts[selection[0]] ?? 0)) * STEP}
            height={height}
          />
        )}
        {score.notes.map(([onset, length, pitch]) => (
          <rect
            key={`${onset}-${pitch}`}
            class={onset <= position && position < onset + length && position > 0 ? "roll-note sounding" : "roll-note"}
            x={onset * STEP + 0.5}
            y={(high - pitch) * ROW + 0.5}
            width={Math.max(length * STEP - 1.5, 2)}
            height={ROW - 1}
            rx={2}
          />
        ))}
        {focused && onChange && (
          <rect class="roll-cursor" x={cursor[0] * STEP} y={(high - cursor[1]) * ROW} width={STEP} height={ROW} />
        )}
        {position > 0 && <line class="roll-position" x1={position * STEP} x2={position * STEP} y1={0} y2={height} />}
      </svg>
      {onChange && (
        <span class="visually-hidden" aria-live="polite">
          {focused ? t("roll.cursor", { pitch: pitchName(cursor[1]), step: cursor[0] + 1 }) : ""}
        </span>
      )}
    </div>
  );
}

function pitchRange(score: Score): [number, number] {
  const pitches = score.notes.map((note) => note[2]);
  let low = Math.min(...pitches, 60) - MARGIN_ROWS;
  let high = Math.max(...pitches, 60) + MARGIN_ROWS;
  while (high - low + 1 < MIN_ROWS) {
    high += 1;
    if (high - low + 1 < MIN_ROWS) low -= 1;
  }
  return [Math.max(low, LOWEST_PITCH), Math.min(high, HIGHEST_PITCH)];
}

function isBlackKey(pitch: number): boolean {
  return [1, 3, 6, 8, 10].includes(pitch % 12);
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(Math.max(value, low), high);
}
