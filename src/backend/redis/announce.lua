-- Adds an entry to the stream of changes. KEYS: [1] the stream. ARGV: [1] the changes, or nothing as
-- a sign of life; [2] the number of entries to keep, about.
-- Returns 1, and the time.
--
-- Entries are numbered without gaps: E-1, E-2, E-3. A stream that is lost, and begins anew, has
-- another E: the time in ms. So a reader can tell by two numbers that it has missed something.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function add(era, number)
  local id = string.format('%s-%.0f', era, number)
  return redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], id, 'c', ARGV[1])
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last then
  local era, number = string.match(last[1], '^(%d+)-(%d+)$')
  local added = add(era, tonumber(number) + 1)
  if not added.err then return {1, now} end
  if not string.find(added.err, 'equal or smaller', 1, true) then return added end
end
-- A stream whose last entries were deleted refuses their numbers. It begins anew.
redis.call('DEL', KEYS[1])
local added = add(string.format('%.0f', math.floor(now / 1000)), 1)
if added.err then return added end
return {1, now}
