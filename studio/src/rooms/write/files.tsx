/** Opening and downloading scores, and the last step as Python code. */

import { useState } from "preact/hooks";

import { Button, Select } from "../../components/controls";
import { CopyLine } from "../../components/copy-line";
import { FileDrop } from "../../components/file-drop";
import { t } from "../../i18n";
import { composing, download, open } from "./actions";
import { python, score } from "./state";

const FORMATS = {
  mid: "audio/midi",
  musicxml: "application/vnd.recordare.musicxml+xml",
  wav: "audio/wav",
} as const;
type Format = keyof typeof FORMATS;

export function Files() {
  const [format, setFormat] = useState<Format>("mid");
  return (
    <section class="panel" aria-labelledby="files">
      <h2 id="files">{t("write.files")}</h2>
      <div class="row">
        <FileDrop
          label={t("write.open")}
          hint={t("write.formats")}
          accept=".mid,.midi,.musicxml,.mxl,.xml,.abc"
          onFile={(file) => void open(file)}
        />
        <div class="row end">
          <Select
            label={t("write.format")}
            value={format}
            options={[
              ["mid", "MIDI"],
              ["musicxml", "MusicXML"],
              ["wav", "WAV"],
            ]}
            onChange={setFormat}
          />
          <Button
            disabled={!score.value.notes.length || composing.value}
            onClick={() => void download(FORMATS[format], format)}
          >
            {t("write.download")}
          </Button>
        </div>
      </div>
      {python.value && (
        <>
          <h3>{t("write.python")}</h3>
          <CopyLine text={python.value} />
          {python.value.includes(".mid") && <p class="hint">{t("write.pythonHint")}</p>}
        </>
      )}
    </section>
  );
}
