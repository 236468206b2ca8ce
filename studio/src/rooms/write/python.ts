/** Python code that reproduces a call. */

/** Return the Python code of a client call, without undefined values and with lists as tuples. */
export function pythonCall(method: string, values: Record<string, unknown>): string {
  const given = Object.entries(values).filter(([, value]) => value !== undefined);
  return `music.${method}(${given.map(([name, value]) => `${name}=${literal(value)}`).join(", ")})`;
}

function literal(value: unknown): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `(${value.map(literal).join(", ")}${value.length === 1 ? "," : ""})`;
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}
