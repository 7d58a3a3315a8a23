-- Adds an entry to the stream of changes. KEYS: [1] the stream. ARGV: [1] the changes, or nothing as
-- a sign of life; [2] the number of entries to keep, about.
-- Returns 1, and the time.
--
-- Entries are numbered without gaps: E-1, E-2, E-3. A stream that is lost, and begins anew, has
-- another E: the time in ms. So a reader can tell by two numbers that it has missed something.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local era, number = string.format('%.0f', math.floor(now / 1000)), 0
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last then
  era, number = string.match(last[1], '^(%d+)-(%d+)$')
  number = tonumber(number)
else
  -- A stream that was emptied still refuses ids below its last one.
  redis.call('DEL', KEYS[1])
end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], string.format('%s-%.0f', era, number + 1), 'c', ARGV[1])
return {1, now}
