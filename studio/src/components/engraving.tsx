/** A score in music notation, drawn from MusicXML that the gateway returns. */

import type { OpenSheetMusicDisplay } from "opensheetmusicdisplay";
import { useEffect, useRef, useState } from "preact/hooks";

import { api } from "../api/client";
import { t } from "../i18n";
import { noteList, type Score } from "../music/notes";
import { messageOf } from "./status";

const MUSIC_XML = "application/vnd.recordare.musicxml+xml";
const DELAY_MS = 250;
const NARROW_PX = 600;
const NARROW_ZOOM = 0.7;

/** Draw the loaded score for a width. */
function fit(display: OpenSheetMusicDisplay, widthPx: number): void {
  display.zoom = widthPx < NARROW_PX ? NARROW_ZOOM : 1;
  display.render();
}

export function Engraving({ score, label }: { score: Score; label: string }) {
  const box = useRef<HTMLDivElement>(null);
  const display = useRef<OpenSheetMusicDisplay | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);

  useEffect(() => {
    if (!score.notes.length) {
      display.current?.clear();
      setError(null);
      return;
    }
    const controller = new AbortController();
    const timer = setTimeout(() => {
      setBusy(true);
      draw(controller.signal)
        .then(() => setError(null))
        .catch((raised: unknown) => {
          if (!controller.signal.aborted) setError(messageOf(raised));
        })
        .finally(() => {
          if (!controller.signal.aborted) setBusy(false);
        });
    }, DELAY_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [score]);

  // Instead of OpenSheetMusicDisplay's own listener, which continues after this component is removed.
  useEffect(() => {
    if (!box.current) return;
    let width = box.current.clientWidth;
    const observer = new ResizeObserver(() => {
      if (box.current?.clientWidth && box.current.clientWidth !== width) {
        width = box.current.clientWidth;
        if (display.current?.IsReadyToRender()) fit(display.current, width);
      }
    });
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);

  const draw = async (signal: AbortSignal) => {
    const [{ OpenSheetMusicDisplay: Display }, file] = await Promise.all([
      import("opensheetmusicdisplay"),
      api.convert(noteList(score), MUSIC_XML, { signal }),
    ]);
    const text = await file.text();
    if (signal.aborted || !box.current) return;
    display.current ??= new Display(box.current, {
      backend: "svg",
      autoResize: false,
      drawTitle: false,
      drawPartNames: false,
      drawingParameters: "compacttight",
    });
    await display.current.load(text);
    fit(display.current, box.current.clientWidth);
  };

  return (
    <figure class="engraving" aria-busy={busy}>
      <figcaption class="visually-hidden">{label}</figcaption>
      {error && <p class="error">{error}</p>}
      {!score.notes.length && <p class="hint">{t("write.empty")}</p>}
      {busy && <p class="hint">{t("write.engraving")}</p>}
      <div ref={box} class="engraving-paper" role="img" aria-label={label} hidden={!score.notes.length} />
    </figure>
  );
}
