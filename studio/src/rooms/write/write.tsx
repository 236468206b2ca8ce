/** Room Write: compose, edit, infill, harmonise, vary and interpolate scores. */

import { useEffect } from "preact/hooks";

import { stop } from "../../audio/player";
import { stopTrack } from "../../components/track-audio";
import { IdeaList } from "./ideas";
import { Files } from "./files";
import { restoreHistory } from "./history";
import { InspirationPanel, InspirePanel } from "./inspire-panel";
import { onShortcut } from "./shortcuts";
import { findModels } from "./models";
import { ScorePanel } from "./score-panel";
import { SettingsPanel } from "./settings-panel";
import { ToolsPanel } from "./tools-panel";

export function Write() {
  useEffect(() => {
    void restoreHistory();
    void findModels();
    addEventListener("keydown", onShortcut);
    return () => {
      removeEventListener("keydown", onShortcut);
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
        <IdeaList />
        <Files />
      </div>
      <ToolsPanel />
    </div>
  );
}
