/** Menu with the theme and the API key; Escape and a click outside close it. */

import { effect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

import { setApiKey } from "../api/client";
import { t } from "../i18n";
import { isString, persisted } from "../state/local-storage";
import { theme, THEMES } from "../state/theme";
import { TextField } from "./controls";

const key = persisted("key", "", isString);
effect(() => setApiKey(key.value || null));

export function SettingsMenu() {
  const details = useRef<HTMLDetailsElement>(null);

  useEffect(() => {
    const onPointer = (event: PointerEvent) => {
      const box = details.current;
      if (box?.open && !box.contains(event.target as Node)) box.open = false;
    };
    addEventListener("pointerdown", onPointer);
    return () => removeEventListener("pointerdown", onPointer);
  }, []);

  const onKey = (event: KeyboardEvent) => {
    const box = details.current;
    if (event.key !== "Escape" || !box?.open) return;
    event.stopPropagation();
    box.open = false;
    box.querySelector("summary")?.focus();
  };

  return (
    <details class="settings" ref={details} onKeyDown={onKey}>
      <summary>{t("app.settings")}</summary>
      <div class="settings-box">
        <fieldset>
          <legend>{t("app.theme")}</legend>
          {THEMES.map((each) => (
            <label key={each}>
              <input type="radio" name="theme" checked={theme.value === each} onChange={() => (theme.value = each)} />{" "}
              {t(`theme.${each}`)}
            </label>
          ))}
        </fieldset>
        <TextField label={t("app.key")} type="password" value={key.value} onInput={(value) => (key.value = value)} />
        <small class="hint">{t("app.keyHint")}</small>
      </div>
    </details>
  );
}
