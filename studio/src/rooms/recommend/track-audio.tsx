/** Plays a track of the catalogue, if the gateway has its recording; one track at a time. */

import { signal } from "@preact/signals";

import { api } from "../../api/client";
import { Button } from "../../components/controls";
import { t } from "../../i18n";

const current = signal<string | null>(null);
const unavailable = signal<readonly string[]>([]);
const audio = new Audio();
audio.preload = "none";
audio.addEventListener("ended", () => (current.value = null));
audio.addEventListener("error", () => {
  if (current.value) unavailable.value = [...unavailable.value, current.value];
  current.value = null;
});

export function TrackAudio({ id, title }: { id: string; title: string }) {
  if (unavailable.value.includes(id)) return <small class="hint">{t("recommend.noAudio")}</small>;
  const isPlaying = current.value === id;
  const toggle = () => {
    if (isPlaying) {
      audio.pause();
      current.value = null;
      return;
    }
    current.value = id;
    audio.src = api.trackAudioUrl(id);
    void audio.play().catch(() => undefined); // the error event reports it
  };
  return (
    <Button
      pressed={isPlaying}
      label={t(isPlaying ? "recommend.stopTrack" : "recommend.playTrack", { title })}
      onClick={toggle}
    >
      {isPlaying ? "■" : "▶"}
    </Button>
  );
}
