/** Recommendations for a listener or a history, which answer to likes and skips at once. */

import { effect, signal } from "@preact/signals";
import { useEffect } from "preact/hooks";

import { api, type Recommendations, type TrackPage } from "../../api/client";
import { Button, Slider, TextField } from "../../components/controls";
import { newTask, Status } from "../../components/status";
import { t } from "../../i18n";
import { isNumber, isString, isStrings, persisted } from "../../state/persisted";
import { TrackAudio } from "./track-audio";
import { Reasons } from "./reasons";

const DELAY_MS = 200;
const N_TRACKS = 12;

const user = persisted("recommend.user", "", isString);
const history = persisted<string[]>("recommend.history", [], isStrings);
const skipped = persisted<string[]>("recommend.skipped", [], isStrings);
const diversity = persisted("recommend.diversity", 0, isNumber);
const novelty = persisted("recommend.novelty", 0, isNumber);
const titles = signal<Record<string, string>>({});
const query = signal("");
const page = signal<TrackPage | null>(null);
const result = signal<Recommendations | null>(null);
const similarTo = signal<string | null>(null);
const searching = newTask();
const recommending = newTask();

let started = false;

/** Ask again whenever something changes, shortly after the last change. */
function start(): void {
  if (started) return;
  started = true;
  let timer: ReturnType<typeof setTimeout>;
  effect(() => {
    const question = {
      user_id: user.value.trim() || undefined,
      history: history.value.length ? history.value : undefined,
      skipped: skipped.value.length ? skipped.value : undefined,
      diversity: diversity.value,
      novelty: novelty.value,
    };
    const like = similarTo.value;
    clearTimeout(timer);
    timer = setTimeout(() => {
      void recommending.run(async (abort) => {
        const found = like
          ? await api.similar({ track_id: like, n: N_TRACKS }, { signal: abort })
          : await api.recommend({ ...question, n: N_TRACKS, explain: 3 }, { signal: abort });
        remember(found.recommendations);
        result.value = found;
      });
    }, DELAY_MS);
  });
  effect(() => {
    const words = query.value.trim();
    if (!words) {
      page.value = null;
      return;
    }
    void searching.run(async (abort) => {
      await new Promise((resolve) => setTimeout(resolve, DELAY_MS));
      if (abort.aborted) return;
      const found = await api.findTracks(words, 10, { signal: abort });
      remember(found.tracks);
      page.value = found;
    });
  });
}

function remember(tracks: readonly { track_id: string; title: string | null }[]): void {
  const known = { ...titles.value };
  for (const each of tracks) if (each.title) known[each.track_id] = each.title;
  titles.value = known;
}

const titleOf = (id: string) => titles.value[id] ?? id;

function like(id: string): void {
  skipped.value = skipped.value.filter((each) => each !== id);
  history.value = [...history.value.filter((each) => each !== id), id];
}

function skip(id: string): void {
  history.value = history.value.filter((each) => each !== id);
  skipped.value = [...skipped.value.filter((each) => each !== id), id];
}

function forget(id: string): void {
  history.value = history.value.filter((each) => each !== id);
  skipped.value = skipped.value.filter((each) => each !== id);
}

export function Recommend() {
  useEffect(start, []);
  const found = result.value;
  return (
    <div class="room two">
      <div class="side">
        <section class="panel" aria-labelledby="for-whom">
          <h2 id="for-whom">{t("recommend.whom")}</h2>
          <TextField
            label={t("recommend.user")}
            placeholder={t("recommend.userHint")}
            value={user.value}
            onInput={(value) => (user.value = value)}
          />
          <TextField
            label={t("recommend.search")}
            type="search"
            value={query.value}
            onInput={(value) => (query.value = value)}
          />
          <Status task={searching} busyText={t("recommend.searching")} />
          {page.value && (
            <ul class="found" aria-label={t("recommend.found")}>
              {page.value.tracks.map((track) => {
                const id = track.track_id;
                return (
                  <li key={id}>
                    <span class="clip">
                      {track.title ?? id}
                      {track.artist ? <small> {track.artist}</small> : null}
                    </span>
                    <Button label={t("recommend.addTrack", { title: titleOf(id) })} onClick={() => like(id)}>
                      +
                    </Button>
                  </li>
                );
              })}
              {!page.value.tracks.length && <li class="hint">{t("recommend.nothing")}</li>}
            </ul>
          )}
          <Chips title={t("recommend.history")} ids={history.value} />
          <Chips title={t("recommend.skipped")} ids={skipped.value} />
          {(history.value.length > 0 || skipped.value.length > 0) && (
            <Button
              onClick={() => {
                history.value = [];
                skipped.value = [];
              }}
            >
              {t("recommend.clear")}
            </Button>
          )}
        </section>
        <section class="panel" aria-labelledby="taste">
          <h2 id="taste">{t("recommend.mix")}</h2>
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
      </div>
      <section class="panel" aria-labelledby="answer" aria-busy={recommending.busy.value}>
        <h2 id="answer">
          {similarTo.value ? t("recommend.similarTo", { title: titleOf(similarTo.value) }) : t("recommend.for")}
        </h2>
        {similarTo.value && <Button onClick={() => (similarTo.value = null)}>{t("recommend.back")}</Button>}
        {found?.source && !similarTo.value && <p class="hint">{t("recommend.source", { source: found.source })}</p>}
        <Status task={recommending} busyText={t("recommend.busy")} />
        <ol class="tracks">
          {found?.recommendations.map((track) => {
            const id = track.track_id;
            return (
              <li key={id}>
                <div class="track-head">
                  <div class="clip">
                    <strong>{track.title ?? id}</strong>
                    {track.artist ? <small> {track.artist}</small> : null}
                  </div>
                  <TrackAudio id={id} title={titleOf(id)} />
                </div>
                <Reasons reasons={track.reasons} />
                <div class="row">
                  <Button onClick={() => like(id)} label={t("recommend.likeTrack", { title: titleOf(id) })}>
                    {t("recommend.like")}
                  </Button>
                  <Button onClick={() => skip(id)} label={t("recommend.skipTrack", { title: titleOf(id) })}>
                    {t("recommend.skip")}
                  </Button>
                  <Button
                    onClick={() => (similarTo.value = id)}
                    label={t("recommend.similarTrack", { title: titleOf(id) })}
                  >
                    {t("recommend.similar")}
                  </Button>
                </div>
              </li>
            );
          })}
        </ol>
      </section>
    </div>
  );
}

function Chips({ title, ids }: { title: string; ids: string[] }) {
  if (!ids.length) return null;
  return (
    <div class="chips">
      <h3>{title}</h3>
      <ul>
        {ids.map((id) => (
          <li key={id}>
            <span class="clip">{titleOf(id)}</span>
            <button type="button" aria-label={t("recommend.remove", { title: titleOf(id) })} onClick={() => forget(id)}>
              ×
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
