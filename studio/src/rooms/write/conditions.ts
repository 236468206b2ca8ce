/** What a composition is asked to be. */

import type { Settings } from "./state";

type Chosen = Pick<Settings, "pieceKey" | "pieceMode" | "pieceDensity" | "structure" | "ending">;

/** Return the conditions of a request; what is left open is left out, so that models without conditions compose too. */
export function conditionsOf({ pieceKey, pieceMode, pieceDensity, structure, ending }: Chosen) {
  return {
    key: pieceKey || undefined,
    mode: pieceMode || undefined,
    density: pieceDensity || undefined,
    structure: structure.trim().toUpperCase() || undefined,
    ending: ending === "open" ? false : undefined,
  };
}

/** Return temperature and top-p of the settings; undefined for those of the model. */
export function samplingOf({ temperature, topP }: Pick<Settings, "temperature" | "topP">) {
  return { temperature: temperature || undefined, top_p: topP < 1 ? topP : undefined };
}
