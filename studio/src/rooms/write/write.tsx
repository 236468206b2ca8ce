/** Writing: compose, edit, infill, harmonise, vary and interpolate, with sound, piano roll and engraved score. */

import { useEffect } from "preact/hooks";

import { stop } from "../../audio/player";
import { stopTrack } from "../../components/track-audio";
import { Choices } from "./choices";
import { Files } from "./files";
import { restoreHistory } from "./history";
import { InspirationPanel, InspirePanel } from "./inspire-panel";
import { onKey } from "./keys";
import { findModels } from "./models";
import { ScorePanel } from "./score-panel";
import { SettingsPanel } from "./settings-panel";
import { ToolsPanel } from "./tools-panel";

export function Write() {
  useEffect(() => {
    void restoreHistory();
    void findModels();
    addEventListener("keydown", onKey);
    return () => {
      removeEventListener("keydown", onKey);
      stop();
      stopTrack();
    };
  }, []);
  return (
    <div class="room two">
      <div class="stack">
        <InspirePanel />
        <SettingsPanel />
      </div>
      <div class="stack">
        <ScorePanel />
        <InspirationPanel />
        <Choices />
        <Files />
      </div>
      <ToolsPanel />
    </div>
  );
}
