-- HAProxy filters that refuse, before a replica has received them whole, requests that end an unmodified Triton 2.51.
--
--   filter lua.inspect_json   HTTP bodies: the classification extension
--   filter lua.inspect_grpc   gRPC messages: the classification extension, compressed messages, messages that are too large
--
-- Triton divides by zero when a request asks for the classes of an output of type BYTES, and the whole server crashes.
-- Classification is therefore allowed only for the outputs that TRITONE_CLASSIFICATION_OUTPUTS lists; no output of type
-- BYTES may have such a name. A filter sees every forwarded byte, so the position in a message, the size of the body and
-- the number of messages in a stream do not matter. Only the inspected parts are copied; tensors are skipped.
--
-- Raising an error is how a Lua filter of HAProxy 2.6 ends a request: the client gets the `http-error status 400` of the
-- frontend, with the text in txn.refusal, and the replica an incomplete message, which it discards. The return value
-- filter.ERROR has no effect in http_payload.

local MAX_BODY_BYTES = tonumber(os.getenv("TRITONE_MAX_BODY_BYTES") or "") or 33554432
-- Triton parses JSON on its stack: five million nested arrays end it, three million do not.
local MAX_JSON_BYTES = tonumber(os.getenv("TRITONE_MAX_JSON_BYTES") or "") or 2097152
local MAX_INSPECTED_BYTES = 65536 -- of JSON that names the extension, and of one requested output: parsed as a whole
local MAX_FIELDS = 16384 -- of one gRPC message: each costs time here
local MAX_DEPTH = 32 -- of JSON that names the extension
local WORD = "classification"
local LONGEST_WORD = 6 * #WORD -- each letter written as \u0063

local GRPC_INVALID_ARGUMENT, GRPC_RESOURCE_EXHAUSTED, GRPC_UNIMPLEMENTED = "3", "8", "12"
local SAY_CLASSES = "the classification extension is allowed here only for the outputs listed in "
  .. "TRITONE_CLASSIFICATION_OUTPUTS; request the output itself"
local SAY_LONG = "the JSON part of a request that contains the word 'classification' is limited to 64 KiB; send tensors "
  .. "with the binary data extension"
local SAY_JSON = "the JSON part of the request is too large; send tensors by the binary data extension"
local SAY_MESSAGE = "the gRPC message is malformed"
local SAY_FLAG = "compressed messages are not accepted here; send messages without compression"
local SAY_LARGE = "the request is too large; send fewer windows at once"

local allowed_outputs = {}
for name in (os.getenv("TRITONE_CLASSIFICATION_OUTPUTS") or "probabilities emotions tags"):gmatch("%S+") do
  allowed_outputs[name] = true
end

local function refuse(txn, text, grpc_status)
  txn:set_var("txn.refusal", text)
  txn:set_var("txn.refusal_status", grpc_status or GRPC_INVALID_ARGUMENT)
  error("request refused: " .. text, 0)
end

-- JSON ---------------------------------------------------------------------------------------------------------------

-- Characters by the two hexadecimal digits of \u00XX: a JSON key may be written with such escapes.
local escapes = {}
for code = 0, 255 do
  local lower = string.format("%02x", code)
  local upper = lower:upper()
  local char = string.char(code)
  escapes[lower], escapes[upper] = char, char
  escapes[lower:sub(1, 1) .. upper:sub(2)], escapes[upper:sub(1, 1) .. lower:sub(2)] = char, char
end

local function decoded(text)
  return text:find("\\u00", 1, true) and (text:gsub("\\u00(%x%x)", escapes)) or text
end

-- Parse a value as { kind, ... }; objects are lists of { key, value }, which keeps repeated keys. Raises an error on
-- anything but strict JSON: a request that uses the extension must be JSON that all parsers read the same.
local parse_value

local function skip_space(text, at)
  return text:find("[^ \t\r\n]", at) or #text + 1
end

local function parse_string(text, at)
  local from = at + 1
  local stop = from
  while true do
    stop = text:find('["\\]', stop)
    if not stop then error("string") end
    if text:byte(stop) == 34 then return decoded(text:sub(from, stop - 1)), stop + 1 end
    stop = stop + 2
  end
end

local function parse_list(text, at, depth, close, parse_item)
  local items = {}
  at = skip_space(text, at + 1)
  if text:sub(at, at) == close then return items, at + 1 end
  while true do
    local item
    item, at = parse_item(text, at, depth)
    items[#items + 1] = item
    at = skip_space(text, at)
    local char = text:sub(at, at)
    if char == close then return items, at + 1 end
    if char ~= "," then error("list") end
    at = skip_space(text, at + 1)
  end
end

local function parse_pair(text, at, depth)
  if text:sub(at, at) ~= '"' then error("key") end
  local key, value
  key, at = parse_string(text, at)
  at = skip_space(text, at)
  if text:sub(at, at) ~= ":" then error("colon") end
  value, at = parse_value(text, skip_space(text, at + 1), depth)
  return { key, value }, at
end

function parse_value(text, at, depth)
  if depth > MAX_DEPTH then error("depth") end
  local char = text:sub(at, at)
  if char == "{" then
    local pairs_, stop = parse_list(text, at, depth + 1, "}", parse_pair)
    return { kind = "object", items = pairs_ }, stop
  elseif char == "[" then
    local items, stop = parse_list(text, at, depth + 1, "]", parse_value)
    return { kind = "array", items = items }, stop
  elseif char == '"' then
    local value, stop = parse_string(text, at)
    return { kind = "string", value = value }, stop
  end
  local stop = text:match("^[%w+%-.]+()", at)
  if not stop then error("value") end
  return { kind = "scalar" }, stop
end

-- Whether the extension is a key of any object in a value.
local function names_extension(value)
  for _, item in ipairs(value.items or {}) do
    if value.kind == "object" then
      if item[1] == WORD or names_extension(item[2]) then return true end
    elseif names_extension(item) then
      return true
    end
  end
  return false
end

local function values_of(object, key)
  local found = {}
  for _, pair in ipairs(object.items) do
    if pair[1] == key then found[#found + 1] = pair[2] end
  end
  return found
end

-- Whether one element of `outputs` uses the extension in the single allowed form, or not at all.
local function output_is_allowed(output)
  if not names_extension(output) then return true end
  if output.kind ~= "object" then return false end
  local names, parameters = values_of(output, "name"), values_of(output, "parameters")
  if #names ~= 1 or not allowed_outputs[names[1].value or ""] or #parameters ~= 1 then return false end
  if parameters[1].kind ~= "object" then return false end
  for _, pair in ipairs(output.items) do
    if pair[1] ~= "parameters" and (pair[1] == WORD or names_extension(pair[2])) then return false end
  end
  for _, pair in ipairs(parameters[1].items) do
    if names_extension(pair[2]) then return false end
  end
  return true
end

-- Whether a request's JSON requests classes only of allowed outputs.
local function json_is_allowed(text)
  local parsed, request, stop = pcall(parse_value, text, skip_space(text, 1), 0)
  if not parsed or skip_space(text, stop) <= #text then return false end
  if not names_extension(request) then return true end
  if request.kind ~= "object" or #values_of(request, "outputs") ~= 1 then return false end
  for _, pair in ipairs(request.items) do
    if pair[1] ~= "outputs" then
      if pair[1] == WORD or names_extension(pair[2]) then return false end
    elseif pair[2].kind ~= "array" then
      return false
    else
      for _, output in ipairs(pair[2].items) do
        if not output_is_allowed(output) then return false end
      end
    end
  end
  return true
end

local JsonFilter = { id = "requests as JSON", flags = filter.FLT_CFG_FL_HTX }
JsonFilter.__index = JsonFilter

function JsonFilter:new()
  return setmetatable({ n_left = 0, n_json = 0, tail = "", kept = {}, is_named = false }, JsonFilter)
end

function JsonFilter:start_analyze(_, channel)
  if not channel:is_resp() then filter.register_data_filter(self, channel) end
end

-- With the binary data extension, which only /infer supports, JSON is just the beginning of the body.
-- Requests of other methods have no body: the configuration waits for the end of those, and after its `wait-for-body` the
-- start line cannot be read here.
function JsonFilter:http_headers(txn, message)
  if message.channel:is_resp() or not txn:get_var("txn.is_post") then return filter.CONTINUE end
  local headers = message:get_headers()
  local line = message:get_stline()
  local path = line.uri:match("^[^?#]*")
  local body_length = headers["content-length"]
  local json_length = path:find("/infer$") and headers["inference-header-content-length"]
  self.n_json = tonumber(body_length and body_length[0] or "") or MAX_BODY_BYTES
  -- A JSON part that claims to be longer than the body would never be complete, and so never inspected.
  if json_length then self.n_json = math.min(self.n_json, tonumber(json_length[0]) or self.n_json) end
  self.n_left = self.n_json
  return filter.CONTINUE
end

function JsonFilter:http_payload(txn, message)
  if message.channel:is_resp() then return end
  if self.n_json > MAX_JSON_BYTES and self.n_left > 0 and message:input() > 0 then refuse(txn, SAY_JSON) end
  if self.n_left <= 0 then return end
  local data = message:body(0, math.min(self.n_left, message:input()))
  if not data or #data == 0 then return end
  self.n_left = self.n_left - #data
  if not self.is_named then
    local text = self.tail .. data
    self.is_named = decoded(text):find(WORD, 1, true) ~= nil
    self.tail = text:sub(-LONGEST_WORD)
  end
  if self.n_json <= MAX_INSPECTED_BYTES then self.kept[#self.kept + 1] = data end
  if not self.is_named then return end
  if self.n_json > MAX_INSPECTED_BYTES then refuse(txn, SAY_LONG) end
  if self.n_left <= 0 and not json_is_allowed(table.concat(self.kept)) then refuse(txn, SAY_CLASSES) end
end

-- gRPC ---------------------------------------------------------------------------------------------------------------

-- Read a protobuf varint: its value and the position after it; nil if it is malformed or has more than 63 bits.
local function varint(data, at, stop)
  local value, shift = 0, 0
  while at <= stop and shift <= 56 do
    local byte = data:byte(at)
    value = value | (byte & 0x7f) << shift
    if byte < 0x80 then return value, at + 1 end
    at, shift = at + 1, shift + 7
  end
end

-- Return the position after a varint whose value is not needed; it may have ten bytes (negative numbers do).
local function behind_varint(data, at, stop)
  for place = at, math.min(stop, at + 9) do
    if data:byte(place) < 0x80 then return place + 1 end
  end
end

-- Read a field's number, wire type, and the position and length of its content; nil if malformed. Groups are malformed.
local function field(data, at, stop)
  local tag, from = varint(data, at, math.min(stop, at + 4))
  if not tag or tag >> 3 == 0 or tag >> 32 ~= 0 then return end
  local number, wire = tag >> 3, tag & 7
  if wire == 0 then
    local behind = behind_varint(data, from, stop)
    return behind and number, wire, from, behind and behind - from
  elseif wire == 1 or wire == 5 then
    return number, wire, from, wire == 1 and 8 or 4
  elseif wire == 2 then
    local length, content = varint(data, from, math.min(stop, from + 4))
    return length and number, wire, content, length
  end
end

-- Parse a complete message into lists of contents by field number; nil if it is malformed.
local function fields_of(data)
  local found, at = {}, 1
  while at <= #data do
    local number, wire, from, length = field(data, at, #data)
    if not number or from + length - 1 > #data then return end
    if wire == 2 then
      found[number] = found[number] or {}
      table.insert(found[number], data:sub(from, from + length - 1))
    end
    at = from + length
  end
  return found
end

-- Whether a requested output (InferRequestedOutputTensor: name 1, parameters 2) requests classes only if it is allowed.
-- A map entry is a message with the key as field 1; of a repeated field the last value counts.
local function grpc_output_is_allowed(data)
  if not data:find(WORD, 1, true) then return true end
  local output = fields_of(data)
  if not output then return false end
  for _, entry in ipairs(output[2] or {}) do
    local parsed = fields_of(entry)
    if not parsed then return false end
    for _, key in ipairs(parsed[1] or {}) do
      if key == WORD and not (output[1] and #output[1] == 1 and allowed_outputs[output[1][1]]) then return false end
    end
  end
  return true
end

local GrpcFilter = { id = "requests as gRPC messages", flags = filter.FLT_CFG_FL_HTX }
GrpcFilter.__index = GrpcFilter

function GrpcFilter:new()
  return setmetatable(
    { pending = {}, n_pending = 0, n_needed = 0, n_skip = 0, n_message = nil, n_fields = 0, is_infer = true },
    GrpcFilter
  )
end

function GrpcFilter:start_analyze(_, channel)
  if not channel:is_resp() then filter.register_data_filter(self, channel) end
end

-- The path comes from a variable: after the configuration's `wait-for-body` the start line cannot be read here.
function GrpcFilter:http_headers(txn, message)
  if message.channel:is_resp() then return filter.CONTINUE end
  local path = txn:get_var("txn.path") or "Infer"
  self.is_infer = path:find("Infer", 1, true) ~= nil
  self.is_stream = path:find("Stream", 1, true) ~= nil
  return filter.CONTINUE
end

-- n_message: remaining bytes of the current message, nil between messages. n_skip: bytes to forward without inspection.
-- pending: parts of a header or field that has not arrived completely, n_pending bytes of the n_needed. They are joined
-- once, so that a field sent byte by byte costs no more than one sent at once.
function GrpcFilter:http_payload(txn, message)
  if message.channel:is_resp() then return end
  local n_here = message:input()
  if self.refusal then
    self.n_drain = self.n_drain - n_here
    message:remove(0, n_here)
    if self.n_drain <= 0 then refuse(txn, self.refusal) end
    return
  end
  if self.n_skip >= n_here then
    self.n_skip = self.n_skip - n_here
    return
  end
  local data = message:body(self.n_skip, n_here - self.n_skip)
  self.n_skip = 0
  if not data or #data == 0 then return end
  if self.n_pending > 0 then
    self.pending[#self.pending + 1] = data
    self.n_pending = self.n_pending + #data
    if self.n_pending < self.n_needed then return end
    data = table.concat(self.pending)
    self.pending, self.n_pending = {}, 0
  end
  local at = 1
  while at <= #data do
    local behind, n_needed = self:step(txn, data, at)
    if not behind then
      local rest = data:sub(at)
      self.pending, self.n_pending, self.n_needed = { rest }, #rest, n_needed
      return
    end
    at = behind
  end
  self.n_skip = at - 1 - #data
end

-- Process one message header or one field and return the position after it; nil and the number of bytes that are needed
-- if it has not arrived completely.
function GrpcFilter:step(txn, data, at)
  local n_here = #data - at + 1
  if not self.n_message then
    local flag = data:byte(at)
    if flag ~= 0 then refuse(txn, flag == 1 and SAY_FLAG or SAY_MESSAGE, flag == 1 and GRPC_UNIMPLEMENTED) end
    if n_here < 5 then return nil, 5 end
    local length = string.unpack(">I4", data, at + 1)
    if length > MAX_BODY_BYTES then refuse(txn, SAY_LARGE, GRPC_RESOURCE_EXHAUSTED) end
    self.n_fields = 0
    if not self.is_infer then return at + 5 + length end
    self.n_message = length > 0 and length or nil
    return at + 5
  end
  local n_head = math.min(self.n_message, 20) -- a tag and a length have ten bytes at most
  if n_here < n_head then return nil, n_head end
  local number, wire, from, length = field(data, at, math.min(#data, at + self.n_message - 1))
  local n_field = number and from - at + length
  self.n_fields = self.n_fields + 1
  if not number or length < 0 or n_field > self.n_message or self.n_fields > MAX_FIELDS then refuse(txn, SAY_MESSAGE) end
  if number == 6 and wire == 2 then -- `outputs`
    if length > MAX_INSPECTED_BYTES then refuse(txn, SAY_MESSAGE) end
    if n_here < n_field then
      self.n_fields = self.n_fields - 1
      return nil, n_field
    end
    if not grpc_output_is_allowed(data:sub(from, from + length - 1)) then
      -- A response before the request's end resets the stream, and some clients report that instead of the response.
      -- The rest of the message is therefore read and discarded first.
      self.refusal = SAY_CLASSES
      self.n_drain = self.n_message - (#data - at + 1)
      if self.is_stream or self.n_drain <= 0 then refuse(txn, self.refusal) end
    end
  end
  self.n_message = n_field < self.n_message and self.n_message - n_field or nil
  return at + n_field
end

core.register_filter("inspect_json", JsonFilter, function(made) return made end)
core.register_filter("inspect_grpc", GrpcFilter, function(made) return made end)
