/** A piano roll: notes as bars over time, edited with the pointer or the keyboard. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { t } from "../i18n";
import { barStarts, HIGHEST_PITCH, LOWEST_PITCH, pitchName, toggled, type Score } from "../music/notes";

const STEP_PX = 11;
const ROW_PX = 9;
const MIDDLE_C = 60;
const MIN_ROWS = 25;
const COMPACT_ROW_PX = 5;
const KEYBOARD_WIDTH_PX = 34;
const MARGIN_ROWS = 3;

interface Props {
  score: Score;
  /** Playback position in time steps; 0 if it is not playing. */
  position?: number;
  selection?: [number, number] | null;
  label: string;
  /** The length of new notes in time steps. */
  noteLength?: number;
  /** Use small rows and no keyboard, for a list of scores. */
  compact?: boolean;
  /** Scroll to the end while the score grows. */
  follow?: boolean;
  onChange?: (score: Score, pitch: number) => void;
  onSelect?: (bars: [number, number] | null) => void;
  onSeek?: (frame: number) => void;
}

export function PianoRoll(props: Props) {
  const { score, position = 0, selection = null, label, noteLength, compact = false, follow = false, onChange } = props;
  const [cursor, setCursor] = useState<[frame: number, pitch: number]>([0, MIDDLE_C]);
  const [focused, setFocused] = useState(false);
  const pitchInView = compact ? null : focused ? cursor[1] : MIDDLE_C;
  const [low, high] = useMemo(() => pitchRange(score, pitchInView), [score, pitchInView]);
  const scroller = useRef<HTMLDivElement>(null);
  const row = compact ? COMPACT_ROW_PX : ROW_PX;
  const keysWidth = compact ? 0 : KEYBOARD_WIDTH_PX;
  const starts = barStarts(score);
  const width = score.nFrames * STEP_PX;
  const height = (high - low + 1) * row;

  useEffect(() => {
    const box = scroller.current;
    if (!box || position === 0) return;
    const x = keysWidth + position * STEP_PX;
    if (x < box.scrollLeft + keysWidth || x > box.scrollLeft + box.clientWidth * 0.85) {
      box.scrollLeft = x - keysWidth - box.clientWidth * 0.15;
    }
  }, [position]);

  useEffect(() => {
    if (follow && position === 0 && scroller.current) scroller.current.scrollLeft = scroller.current.scrollWidth;
  }, [score.nFrames, follow]);

  const toggle = (frame: number, pitch: number) => {
    if (!onChange || frame < 0 || pitch < LOWEST_PITCH || pitch > HIGHEST_PITCH) return;
    const length = Math.max(1, Math.round(noteLength ?? score.framesPerQuarter / 2));
    onChange(toggled(score, frame, length, pitch), pitch);
  };

  // On click rather than pointerdown, which also begins a scroll on a touch screen.
  const onClick = (event: MouseEvent) => {
    const box = (event.currentTarget as SVGElement).getBoundingClientRect();
    const frame = Math.floor((event.clientX - box.left) / STEP_PX);
    const pitch = high - Math.floor((event.clientY - box.top) / row);
    setCursor([frame, pitch]);
    toggle(frame, pitch);
  };

  const onKey = (event: KeyboardEvent) => {
    const [frame, pitch] = cursor;
    const move = MOVES[event.key];
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

  // The position changes 20 times per second; notes are rendered again only after a change.
  const notes = useMemo(
    () => <Notes score={score} starts={starts} low={low} high={high} row={row} />,
    [score, low, high, row],
  );
  return (
    <div class="roll" ref={scroller}>
      <BarNumbers {...props} starts={starts} keysWidth={keysWidth} />
      <div class="roll-body">
        {!compact && <Keyboard low={low} high={high} />}
        <svg
          class="roll-notes"
          width={width}
          height={height}
          viewBox={`0 0 ${width} ${height}`}
          tabIndex={onChange ? 0 : undefined}
          role={onChange ? "application" : "img"}
          aria-label={`${label}. ${t("roll.summary", { notes: score.notes.length, bars: starts.length })}`}
          aria-description={onChange ? t("roll.keys") : undefined}
          onClick={onChange ? onClick : undefined}
          onKeyDown={onChange ? onKey : undefined}
          onFocus={() => setFocused(true)}
          onBlur={() => setFocused(false)}
        >
          {notes}
          {selection && (
            <rect
              class="roll-selection"
              x={(starts[selection[0]] ?? 0) * STEP_PX}
              y={0}
              width={((starts[selection[1]] ?? score.nFrames) - (starts[selection[0]] ?? 0)) * STEP_PX}
              height={height}
            />
          )}
          {position > 0 && (
            <>
              {score.notes
                .filter(([onset, length]) => onset <= position && position < onset + length)
                .map(([onset, length, pitch]) => (
                  <NoteBar key={`${onset}-${pitch}`} note={[onset, length, pitch]} high={high} row={row} sounding />
                ))}
              <line class="roll-position" x1={position * STEP_PX} x2={position * STEP_PX} y1={0} y2={height} />
            </>
          )}
          {focused && onChange && (
            <rect class="roll-cursor" x={cursor[0] * STEP_PX} y={(high - cursor[1]) * row} width={STEP_PX} height={row} />
          )}
        </svg>
      </div>
      {onChange && (
        <span class="visually-hidden" aria-live="polite">
          {focused ? t("roll.cursor", { pitch: pitchName(cursor[1]), step: cursor[0] + 1 }) : ""}
        </span>
      )}
    </div>
  );
}

const MOVES: Record<string, [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, 1],
  ArrowDown: [0, -1],
};

interface BarNumbersProps extends Props {
  starts: number[];
  keysWidth: number;
}

/** Bar numbers as buttons, which select a bar, or play from it if bars cannot be selected. */
function BarNumbers({ score, selection, starts, keysWidth, onSelect, onSeek }: BarNumbersProps) {
  const select = (bar: number, extend: boolean) => {
    if (!onSelect) return;
    if (extend && selection) onSelect([Math.min(selection[0], bar), Math.max(selection[1], bar + 1)]);
    else if (selection && selection[0] === bar && selection[1] === bar + 1) onSelect(null);
    else onSelect([bar, bar + 1]);
  };
  return (
    <div class="roll-bars" style={{ width: `${keysWidth + score.nFrames * STEP_PX}px` }}>
      {starts.map((start, bar) => {
        const end = starts[bar + 1] ?? score.nFrames;
        const place = { left: `${keysWidth + start * STEP_PX}px`, width: `${(end - start) * STEP_PX}px` };
        if (!onSelect && !onSeek) {
          return (
            <span key={bar} class="roll-bar" style={place} aria-hidden="true">
              {bar + 1}
            </span>
          );
        }
        return (
          <button
            key={bar}
            type="button"
            class="roll-bar"
            style={place}
            aria-pressed={onSelect ? isWithin(bar, selection) : undefined}
            aria-label={t(onSelect ? "roll.selectBar" : "roll.playBar", { bar: bar + 1 })}
            onClick={(event) => {
              if (event.altKey || !onSelect) onSeek?.(start);
              else select(bar, event.shiftKey);
            }}
          >
            {bar + 1}
          </button>
        );
      })}
    </div>
  );
}

/** The keyboard at the left edge, with the names of the Cs. */
function Keyboard({ low, high }: { low: number; high: number }) {
  const pitches = Array.from({ length: high - low + 1 }, (_, index) => high - index);
  return (
    <svg class="roll-keys" width={KEYBOARD_WIDTH_PX} height={pitches.length * ROW_PX} aria-hidden="true">
      {pitches.map((pitch, index) => (
        <rect
          key={pitch}
          class={isBlackKey(pitch) ? "roll-key black" : "roll-key"}
          x={0}
          y={index * ROW_PX}
          width={KEYBOARD_WIDTH_PX}
          height={ROW_PX}
        />
      ))}
      {pitches.map((pitch, index) =>
        pitch % 12 === 0 ? (
          <text key={pitch} class="roll-key-name" x={KEYBOARD_WIDTH_PX - 4} y={index * ROW_PX + ROW_PX - 1}>
            {pitchName(pitch)}
          </text>
        ) : null,
      )}
    </svg>
  );
}

interface NotesProps {
  score: Score;
  starts: number[];
  low: number;
  high: number;
  row: number;
}

function Notes({ score, starts, low, high, row }: NotesProps) {
  const width = score.nFrames * STEP_PX;
  const height = (high - low + 1) * row;
  const beats = Array.from({ length: Math.ceil(score.nFrames / score.framesPerQuarter) }, (_, beat) => beat);
  return (
    <>
      {Array.from({ length: high - low + 1 }, (_, index) =>
        isBlackKey(high - index) ? (
          <rect key={index} class="roll-black" x={0} y={index * row} width={width} height={row} />
        ) : null,
      )}
      {beats.map((beat) => {
        const x = beat * score.framesPerQuarter * STEP_PX;
        return <line key={beat} class="roll-beat" x1={x} x2={x} y1={0} y2={height} />;
      })}
      {starts.map((start) => (
        <line key={start} class="roll-line" x1={start * STEP_PX} x2={start * STEP_PX} y1={0} y2={height} />
      ))}
      {score.notes.map((note) => (
        <NoteBar key={`${note[0]}-${note[2]}`} note={note} high={high} row={row} />
      ))}
    </>
  );
}

interface NoteBarProps {
  note: Score["notes"][number];
  high: number;
  row: number;
  sounding?: boolean;
}

function NoteBar({ note: [onset, length, pitch], high, row, sounding = false }: NoteBarProps) {
  return (
    <rect
      class={sounding ? "roll-sounding" : "roll-note"}
      x={onset * STEP_PX + 0.5}
      y={(high - pitch) * row + 0.5}
      width={Math.max(length * STEP_PX - 1.5, 2)}
      height={row - 1}
      rx={2}
    />
  );
}

/** Return the lowest and highest pitch to show, which include all notes with a margin, and `inView`. */
function pitchRange(score: Score, inView: number | null): [number, number] {
  const pitches = score.notes.map((note) => note[2]);
  if (inView !== null || !pitches.length) pitches.push(inView ?? MIDDLE_C);
  let low = Math.max(Math.min(...pitches) - MARGIN_ROWS, LOWEST_PITCH);
  let high = Math.min(Math.max(...pitches) + MARGIN_ROWS, HIGHEST_PITCH);
  while (high - low + 1 < MIN_ROWS) {
    if (high < HIGHEST_PITCH) high += 1;
    if (low > LOWEST_PITCH && high - low + 1 < MIN_ROWS) low -= 1;
  }
  return [low, high];
}

function isWithin(bar: number, selection: [number, number] | null | undefined): boolean {
  return !!selection && bar >= selection[0] && bar < selection[1];
}

function isBlackKey(pitch: number): boolean {
  return [1, 3, 6, 8, 10].includes(pitch % 12);
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(Math.max(value, low), high);
}
