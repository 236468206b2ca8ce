/** Writing: compose, edit, infill, harmonise, vary and interpolate, with sound, piano roll and engraved score. */

import { useEffect } from "preact/hooks";

import { stop } from "../../audio/player";
import { Choices } from "./choices";
import { Files } from "./files";
import { onKey } from "./keys";
import { ScorePanel } from "./score-panel";
import { SettingsPanel } from "./settings-panel";
import { ToolsPanel } from "./tools-panel";

export function Write() {
  useEffect(() => {
    addEventListener("keydown", onKey);
    return () => {
      removeEventListener("keydown", onKey);
      stop();
    };
  }, []);
  return (
    <div class="room two">
      <SettingsPanel />
      <div class="stack">
        <ScorePanel />
        <Choices />
        <Files />
      </div>
      <ToolsPanel />
    </div>
  );
}
