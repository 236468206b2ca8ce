/** Button that plays a track if the gateway has its recording; one track at a time. */

import { signal } from "@preact/signals";

import { api, ApiError } from "../api/client";
import { claimPlayback } from "../audio/exclusive-playback";
import { t } from "../i18n";
import { Button } from "./controls";
import { messageOf } from "./status";

const current = signal<string | null>(null);
const loading = signal(false);
const problems = signal<Readonly<Record<string, string>>>({});
const audio = new Audio();
let controller: AbortController | null = null;

audio.addEventListener("ended", stopTrack);
audio.addEventListener("error", () => {
  if (current.value !== null && audio.src) fail(current.value, t("recommend.notDecoded"));
});

/** Stop the current track, also one that is still loading. */
export function stopTrack(): void {
  controller?.abort();
  controller = null;
  audio.pause();
  if (audio.src) {
    URL.revokeObjectURL(audio.src);
    audio.removeAttribute("src");
  }
  loading.value = false;
  current.value = null;
}

async function playTrack(id: string): Promise<void> {
  claimPlayback(stopTrack);
  stopTrack();
  const own = new AbortController();
  controller = own;
  current.value = id;
  loading.value = true;
  try {
    const file = await api.trackAudio(id, { signal: own.signal });
    if (own.signal.aborted) return;
    audio.src = URL.createObjectURL(file);
    await audio.play();
    if (!own.signal.aborted) loading.value = false;
  } catch (error) {
    if (own.signal.aborted) return;
    const isMissing = error instanceof ApiError && error.problem.status === 404;
    fail(id, isMissing ? t("recommend.noAudio") : messageOf(error));
  }
}

function fail(id: string, why: string): void {
  problems.value = { ...problems.value, [id]: why };
  stopTrack();
}

export function TrackAudio({ id, title }: { id: string; title: string }) {
  const problem = problems.value[id];
  if (problem) {
    return (
      <small class="hint" role="status">
        {problem}
      </small>
    );
  }
  const isCurrent = current.value === id;
  return (
    <Button
      small
      pressed={isCurrent}
      label={t(isCurrent ? "recommend.stopTrack" : "recommend.playTrack", { title })}
      onClick={() => (isCurrent ? stopTrack() : void playTrack(id))}
    >
      {isCurrent ? (loading.value ? "…" : "■") : "▶"}
    </Button>
  );
}
