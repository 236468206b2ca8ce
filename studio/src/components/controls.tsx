/** Form controls with labels. */

import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

import { formatNumber } from "../i18n";

interface SliderProps {
  label: string;
  value: number;
  min: number;
  max: number;
  step: number;
  digits?: number;
  hint?: string;
  /** Shown instead of 0. */
  zero?: string;
  onInput: (value: number) => void;
}

export function Slider({ label, value, min, max, step, digits = 0, hint, zero, onInput }: SliderProps) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>
        {label} <output for={id}>{value === 0 && zero ? zero : formatNumber(value, digits)}</output>
      </label>
      <input
        id={id}
        type="range"
        min={min}
        max={max}
        step={step}
        value={value}
        aria-describedby={hint ? `${id}-hint` : undefined}
        aria-valuetext={value === 0 ? zero : undefined}
        onInput={(event) => onInput(event.currentTarget.valueAsNumber)}
      />
      {hint && (
        <small id={`${id}-hint`} class="hint">
          {hint}
        </small>
      )}
    </div>
  );
}

interface SelectProps<T extends string> {
  label: string;
  value: T;
  options: readonly (readonly [value: T, text: string])[];
  onChange: (value: T) => void;
}

export function Select<T extends string>({ label, value, options, onChange }: SelectProps<T>) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <select id={id} value={value} onChange={(event) => onChange(event.currentTarget.value as T)}>
        {options.map(([each, text]) => (
          <option key={each} value={each}>
            {text}
          </option>
        ))}
      </select>
    </div>
  );
}

interface TextFieldProps {
  label: string;
  value: string;
  type?: "text" | "search" | "number" | "password";
  placeholder?: string;
  /** The least value of a number. */
  min?: number;
  onInput: (value: string) => void;
}

export function TextField({ label, value, type = "text", placeholder, min, onInput }: TextFieldProps) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        id={id}
        type={type}
        value={value}
        placeholder={placeholder}
        min={min}
        step={type === "number" ? 1 : undefined}
        autocomplete="off"
        onInput={(event) => onInput(event.currentTarget.value)}
      />
    </div>
  );
}

interface ButtonProps {
  children: ComponentChildren;
  onClick: () => void;
  primary?: boolean;
  small?: boolean;
  disabled?: boolean;
  pressed?: boolean;
  label?: string;
  title?: string;
}

export function Button({ children, onClick, primary, small, disabled, pressed, label, title }: ButtonProps) {
  return (
    <button
      type="button"
      class={`button${primary ? " primary" : ""}${small ? " small" : ""}`}
      disabled={disabled}
      aria-pressed={pressed}
      aria-label={label}
      title={title}
      onClick={onClick}
    >
      {children}
    </button>
  );
}
