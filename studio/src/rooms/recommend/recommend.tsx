/** Room Recommend: recommendations for a listener or a history, updated after each like and skip. */

import { useEffect, useRef } from "preact/hooks";

import type { Recommendations } from "../../api/client";
import { Button, Slider } from "../../components/controls";
import { Status } from "../../components/status";
import { TrackAudio, stopTrack } from "../../components/track-audio";
import { t, type Key } from "../../i18n";
import { ListenerPanel } from "./listener-panel";
import { Reasons } from "./reasons";
import { diversity, like, novelty, recommending, result, similarTo, skip, start, titleOf } from "./state";

type Track = Recommendations["recommendations"][number];

export function Recommend() {
  useEffect(() => {
    start();
    return stopTrack;
  }, []);
  return (
    <div class="room two">
      <ListenerPanel />
      <Tracks />
      <RankingPanel />
    </div>
  );
}

function RankingPanel() {
  return (
    <section class="panel" aria-labelledby="ranking">
      <h2 id="ranking">{t("recommend.ranking")}</h2>
      <Slider
        label={t("recommend.diversity")}
        hint={t("recommend.diversityHint")}
        value={diversity.value}
        min={0}
        max={1}
        step={0.05}
        digits={2}
        onInput={(value) => (diversity.value = value)}
      />
      <Slider
        label={t("recommend.novelty")}
        hint={t("recommend.noveltyHint")}
        value={novelty.value}
        min={0}
        max={1}
        step={0.05}
        digits={2}
        onInput={(value) => (novelty.value = value)}
      />
    </section>
  );
}

function Tracks() {
  const heading = useRef<HTMLHeadingElement>(null);
  const hasActed = useRef(false);
  const found = result.value;
  const isSimilar = similarTo.value !== "";

  // The track of the pressed button is often not in the new list: move the focus to the heading of the list.
  useEffect(() => {
    if (hasActed.current && document.activeElement === document.body) heading.current?.focus({ preventScroll: true });
    hasActed.current = false;
  }, [found]);

  const actInList = (action: () => void) => {
    hasActed.current = true;
    action();
  };
  return (
    <section class="panel" aria-labelledby="recommended" aria-busy={recommending.busy.value}>
      <div class="row spread">
        <h2 id="recommended" ref={heading} tabIndex={-1}>
          {isSimilar ? t("recommend.similarTo", { title: titleOf(similarTo.value) }) : t("recommend.recommended")}
        </h2>
        {isSimilar && (
          <Button small onClick={() => actInList(() => (similarTo.value = ""))}>
            {t("recommend.back")}
          </Button>
        )}
      </div>
      {found?.source && !isSimilar && <p class="hint">{sourceText(found.source)}</p>}
      {found?.unknown.user && !isSimilar && <p class="hint">{t("recommend.unknownUser")}</p>}
      <Status task={recommending} busyText={t("recommend.busy")} />
      {found && !found.recommendations.length && <p class="hint">{t("recommend.noTracks")}</p>}
      <ol class="tracks">
        {found?.recommendations.map((track) => (
          <TrackRow key={track.track_id} track={track} actInList={actInList} />
        ))}
      </ol>
    </section>
  );
}

function TrackRow({ track, actInList }: { track: Track; actInList: (action: () => void) => void }) {
  const id = track.track_id;
  const title = track.title ?? id;
  return (
    <li>
      <div class="clip">
        <strong>{title}</strong>
        {track.artist ? <small> {track.artist}</small> : null}
        <Reasons reasons={track.reasons} />
      </div>
      <div class="row">
        <TrackAudio id={id} title={title} />
        <Button small onClick={() => actInList(() => like(id))} label={t("recommend.likeTrack", { title })}>
          {t("recommend.like")}
        </Button>
        <Button small onClick={() => actInList(() => skip(id))} label={t("recommend.skipTrack", { title })}>
          {t("recommend.skip")}
        </Button>
        <Button
          small
          onClick={() => actInList(() => (similarTo.value = id))}
          label={t("recommend.similarTrack", { title })}
        >
          {t("recommend.similar")}
        </Button>
      </div>
    </li>
  );
}

const SOURCES: Record<string, Key> = {
  user: "source.user",
  history: "source.history",
  friends: "source.friends",
  audio: "source.audio",
  mood: "source.mood",
  popularity: "source.popularity",
};

function sourceText(source: string): string {
  const words = SOURCES[source];
  return words ? t(words) : source;
}
