-- The guard of one method: of a response it lets through what the caller's view names, and nothing else.
--
-- Before this stand `streaming`, `views`, `callers` and `fault`; see guard.py. It stands behind proto_api_scrubber, and closes what that
-- leaves open: fields that the contract does not have, messages that cannot be read, answers that do not look like gRPC,
-- and empty messages that tell that something was there.

local seen = {}
for caller, number in callers:gmatch("([^\n]*\t[^\n]*)\n(%d+)\n") do
  seen[caller] = views[tonumber(number)]
end

local function varint(text, at)
  local value, factor = 0, 1
  for _ = 1, 10 do
    local byte = text:byte(at)
    if byte == nil then return nil end
    at = at + 1
    if byte < 128 then return value + byte * factor, at end
    value, factor = value + (byte - 128) * factor, factor * 128
  end
  return nil
end

local function put_varint(value)
  local out = {}
  while value > 127 do
    out[#out + 1] = string.char(value % 128 + 128)
    value = math.floor(value / 128)
  end
  out[#out + 1] = string.char(value)
  return table.concat(out)
end

-- The bytes text[at..last] of a message as `tree` shows them; nil when they are no message. Groups are not read.
local function keep(text, at, last, tree)
  local out = {}
  while at <= last do
    local tag, content = varint(text, at)
    if tag == nil then return nil end
    local kind, after = tag % 8, nil
    local number, value_at = (tag - kind) / 8, content
    if kind == 0 then
      _, after = varint(text, content)
    elseif kind == 1 then
      after = content + 8
    elseif kind == 2 then
      local length
      length, value_at = varint(text, content)
      after = length and value_at + length
    elseif kind == 5 then
      after = content + 4
    end
    if after == nil or after > last + 1 or number == 0 then return nil end
    local below = tree[number]
    if below == true then
      out[#out + 1] = text:sub(at, after - 1)
    elseif below and kind == 2 then
      local inner = keep(text, value_at, after - 1, below)
      if inner == nil then return nil end
      out[#out + 1] = text:sub(at, content - 1) .. put_varint(#inner) .. inner
    end
    at = after
  end
  return table.concat(out)
end

local function length_of(text, at)
  local a, b, c, d = text:byte(at, at + 3)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

local function framed(message)
  local size, head = #message, {}
  for place = 4, 1, -1 do
    head[place] = string.char(size % 256)
    size = math.floor(size / 256)
  end
  return "\0" .. table.concat(head) .. message
end

-- The whole frames of `text` as `tree` shows them, and what is left over; nil when one cannot be read (or is compressed).
local function frames(text, tree)
  local out, at = {}, 1
  while #text - at + 1 >= 5 do
    local last = at + 4 + length_of(text, at + 1)
    if text:byte(at) ~= 0 then return nil end
    if last > #text then break end
    local message = keep(text, at + 5, last, tree)
    if message == nil then return nil end
    out[#out + 1] = framed(message)
    at = last + 1
  end
  return table.concat(out), text:sub(at)
end

-- As frames, but of one more chunk, and never an error: a script that fails would let everything through.
local function passed(text, tree)
  local done, out, rest = pcall(frames, text, tree)
  if done and out ~= nil then return out, rest end
  return nil, nil
end

local function warn(handle, what)
  handle:logWarn("an answer of " .. fault.method .. " " .. what .. " and was not passed on")
end

-- Headers are asked for anew: those that were had before the body was awaited are out of their scope.
local function refuse(handle, body)
  local headers = handle:headers()
  headers:replace(":status", "502")
  headers:replace("content-type", "application/json")
  headers:replace("x-lgsp-reason", fault.reason)
  for _, name in ipairs({"content-length", "grpc-status", "grpc-message", "grpc-encoding", "content-encoding"}) do
    headers:remove(name)
  end
  if body ~= nil then
    body:setBytes(fault.body)
    headers:replace("content-length", tostring(#fault.body))
  end
end

local function end_badly(trailers)
  trailers:replace("grpc-status", fault.code)
  trailers:replace("grpc-message", fault.message)
  trailers:replace("grpc-status-details-bin", fault.details)
  trailers:replace("x-lgsp-reason", fault.reason)
end

-- One message: nothing of the answer is gone before it was read.
local function mask_one(handle, tree, rest_caller)
  local body = handle:body(true)
  local size = body == nil and 0 or body:length()
  local trailers = handle:trailers()
  local out, left = nil, nil
  if size > 0 then out, left = passed(body:getBytes(0, size), tree) end
  -- gRPC ends with trailers; the transcoder writes a wrong length for an answer that has none.
  if out ~= nil and left == "" and trailers ~= nil then
    body:setBytes(out)
    -- It is of no use to gRPC, and wrong as soon as the transcoder has made JSON of it.
    handle:headers():remove("content-length")
    return
  end
  if size == 0 and (trailers == nil or trailers:get("grpc-status") ~= "0") then return end
  warn(handle, "could not be read")
  if trailers == nil or rest_caller then
    refuse(handle, body)
  else
    if body ~= nil then body:setBytes("") end
    handle:headers():remove("content-length")
    end_badly(trailers)
  end
end

local function mask_many(handle, tree)
  local rest, bad = "", false
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size > 0 then
      local out, left = nil, nil
      if not bad then out, left = passed(rest .. chunk:getBytes(0, size), tree) end
      bad, rest = out == nil, left or ""
      chunk:setBytes(out or "")
    end
  end
  if bad or rest ~= "" then
    warn(handle, "could not be read")
    local trailers = handle:trailers()
    if trailers ~= nil then end_badly(trailers) end
  end
end

function envoy_on_request(handle)
  local headers, kept = handle:headers(), handle:streamInfo():dynamicMetadata()
  kept:set("lgsp.guard", "client", headers:get("x-lgsp-client") or "")
  kept:set("lgsp.guard", "rest", headers:get("x-envoy-original-path") ~= nil)
  kept:set("lgsp.guard", "purpose", headers:get("x-lgsp-purpose") or "")
end

local function respond(handle)
  local headers = handle:headers()
  -- The router puts it on every answer of a provider; without it Envoy answers itself.
  if headers:get("x-envoy-upstream-service-time") == nil then return end
  local who = handle:streamInfo():dynamicMetadata():get("lgsp.guard") or {}
  local client, purpose = who["client"] or "", who["purpose"] or ""
  local tree = seen[client .. "\t" .. purpose] or seen[client .. "\t"] or {}
  if tree == true then return end
  local content_type = headers:get("content-type")
  local is_grpc = content_type == "application/grpc" or content_type == "application/grpc+proto"
  if headers:get(":status") ~= "200" or not is_grpc then
    warn(handle, "was no gRPC")
    refuse(handle, handle:body(true))
  elseif streaming then
    mask_many(handle, tree)
  else
    mask_one(handle, tree, who["rest"])
  end
end

function envoy_on_response(handle)
  local done, why = pcall(respond, handle)
  if done then return end
  -- A script that fails lets the answer pass as it is: it is taken away first, and then Envoy counts the failure.
  pcall(function() refuse(handle, handle:body(true)) end)
  error(why)
end
