/** State of the room Recommend: the listener and the recommendations, requested again after each change. */

import { effect, signal } from "@preact/signals";

import { api, type Recommendations, type TrackPage } from "../../api/client";
import { newTask } from "../../components/status";
import { isNumber, isString, isStrings, persisted } from "../../state/local-storage";

const DELAY_MS = 250;
const N_TRACKS = 12;
const N_REASONS = 6; // requested for each track; reasons with the same cause are then grouped
const PAGE_SIZE = 10;
const MAX_TITLES = 1_000;

type Titles = Readonly<Record<string, string>>;

export const user = persisted("recommend.user", "", isString);
export const history = persisted<string[]>("recommend.history", [], isStrings);
export const skipped = persisted<string[]>("recommend.skipped", [], isStrings);
export const diversity = persisted("recommend.diversity", 0, isNumber);
export const novelty = persisted("recommend.novelty", 0, isNumber);
export const query = persisted("recommend.query", "", isString);
/** The track to find similar ones for; "" for recommendations. */
export const similarTo = persisted("recommend.similarTo", "", isString);
export const page = signal<TrackPage | null>(null);
export const result = signal<Recommendations | null>(null);
/** Ids of the example users that the operator has chosen. */
export const examples = signal<readonly string[]>([]);
export const searching = newTask();
export const recommending = newTask();

const titles = persisted<Titles>("recommend.titles", {}, isTitles);
const limit = signal(PAGE_SIZE);
let started = false;

/** Request recommendations now, and shortly after each change. */
export function start(): void {
  if (started) return;
  started = true;
  api.exampleUsers().then(
    (found) => (examples.value = found),
    () => undefined, // without examples, an id can be typed
  );
  let timer: ReturnType<typeof setTimeout>;
  effect(() => {
    const request = {
      user_id: user.value.trim() || undefined,
      history: history.value.length ? history.value : undefined,
      skipped: skipped.value.length ? skipped.value : undefined,
      diversity: diversity.value,
      novelty: novelty.value,
    };
    const track = similarTo.value;
    clearTimeout(timer);
    timer = setTimeout(() => {
      void recommending.run(async (abort) => {
        const found = track
          ? await api.similar({ track_id: track, n: N_TRACKS }, { signal: abort })
          : await api.recommend({ ...request, n: N_TRACKS, explain: N_REASONS }, { signal: abort });
        remember(found.recommendations);
        result.value = found;
      });
    }, DELAY_MS);
  });
  effect(() => {
    const words = query.value.trim();
    const n = limit.value;
    if (!words) {
      searching.abort();
      searching.error.value = null;
      page.value = null;
      return;
    }
    void searching.run(async (abort) => {
      await new Promise((resolve) => setTimeout(resolve, DELAY_MS));
      if (abort.aborted) return;
      const found = await api.findTracks(words, n, { signal: abort });
      remember(found.tracks);
      page.value = found;
    });
  });
}

export function search(words: string): void {
  limit.value = PAGE_SIZE;
  query.value = words;
}

export function showMore(): void {
  limit.value += PAGE_SIZE;
}

export function titleOf(id: string): string {
  return titles.value[id] ?? id;
}

/** Like a track, and remember its title if one is given. */
export function like(id: string, title: string | null = null): void {
  remember([{ track_id: id, title }]);
  skipped.value = skipped.value.filter((each) => each !== id);
  history.value = [...history.value.filter((each) => each !== id), id];
}

export function skip(id: string): void {
  history.value = history.value.filter((each) => each !== id);
  skipped.value = [...skipped.value.filter((each) => each !== id), id];
}

export function remove(id: string): void {
  history.value = history.value.filter((each) => each !== id);
  skipped.value = skipped.value.filter((each) => each !== id);
}

export function removeAll(): void {
  history.value = [];
  skipped.value = [];
}

/** Store titles for the lists of liked and skipped tracks, which have only ids; drop the oldest beyond a limit. */
function remember(tracks: readonly { track_id: string; title: string | null }[]): void {
  const known = { ...titles.peek() };
  for (const each of tracks) if (each.title) known[each.track_id] = each.title;
  const inUse = new Set([...history.peek(), ...skipped.peek()]);
  const entries = Object.entries(known);
  titles.value = Object.fromEntries(entries.filter(([id], at) => inUse.has(id) || at >= entries.length - MAX_TITLES));
}

function isTitles(value: unknown): value is Titles {
  return typeof value === "object" && value !== null && !Array.isArray(value) && Object.values(value).every(isString);
}
