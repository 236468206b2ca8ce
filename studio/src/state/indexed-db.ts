/** Storage in the browser's IndexedDB, for values that local storage cannot hold, such as files. */

const DATABASE = "tritone.studio";
const STORE = "values";

function open(): Promise<IDBDatabase> {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  return promiseOf(request);
}

function promiseOf<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("the browser's storage failed"));
  });
}

async function inTransaction<T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const database = await open();
  try {
    const transaction = database.transaction(STORE, mode);
    const complete = new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error("the browser's storage failed"));
    });
    const [result] = await Promise.all([promiseOf(work(transaction.objectStore(STORE))), complete]);
    return result;
  } finally {
    database.close();
  }
}

/** Store a value, and return whether it was stored; private windows and full disks refuse. */
export async function writeStored(name: string, value: unknown): Promise<boolean> {
  try {
    await inTransaction("readwrite", (values) => values.put(value, name));
    return true;
  } catch {
    return false;
  }
}

/** Return a stored value, or undefined. */
export async function readStored(name: string): Promise<unknown> {
  try {
    return await inTransaction<unknown>("readonly", (values) => values.get(name) as IDBRequest<unknown>);
  } catch {
    return undefined;
  }
}

/** Remove a stored value. */
export async function removeStored(name: string): Promise<void> {
  try {
    await inTransaction("readwrite", (values) => values.delete(name));
  } catch {
    // If nothing can be stored, there is nothing to remove.
  }
}
