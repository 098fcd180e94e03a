-- What wrk sends, and what it reports. Arguments: method, body, keys, first count, header lines.
--
-- An "@" in the body becomes a count that grows with each request. `keys`: 0 for the key in the
-- headers; else each request takes the next of so many keys.

local method, template, count, keys, headers, whole

function init(arguments)
   method = arguments[1]
   template = arguments[2] ~= "" and arguments[2] or nil
   keys = tonumber(arguments[3])
   count = tonumber(arguments[4])
   headers = {}
   for position = 5, #arguments do
      local name, value = arguments[position]:match("^([^:]+): (.*)$")
      headers[name] = value
   end
   if keys == 0 and not (template and template:find("@")) then
      whole = wrk.format(method, nil, headers, template)
   end
end

function request()
   if whole then
      return whole
   end
   count = count + 1
   if keys > 0 then
      headers["Authorization"] = string.format("Bearer hk_test_bench_%06d", count % keys)
   end
   local body = template and template:gsub("@", string.format("%d", count))
   return wrk.format(method, nil, headers, body)
end

-- wrk counts in microseconds. The names are those of the class Outcome in wrk.py.
function done(summary, latency)
   local errors, requests = summary.errors, summary.requests
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format(
      '{"requests": %d, "rps": %f, "failed": %f, "p50_ms": %f, "p99_ms": %f}\n',
      requests, requests / summary.duration * 1e6, failed / math.max(requests, 1),
      latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
