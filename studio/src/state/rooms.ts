/** The room that the address shows, as in `#/write`. */

import { signal } from "@preact/signals";

export const ROOMS = ["listen", "write", "recommend", "watch"] as const;
export type Room = (typeof ROOMS)[number];

export const room = signal<Room>(roomOf(location.hash));

addEventListener("hashchange", () => {
  room.value = roomOf(location.hash);
});

function roomOf(hash: string): Room {
  const name = hash.replace(/^#\//, "");
  return ROOMS.find((each) => each === name) ?? "listen";
}
