(function (edge, origin) {
  "use strict";
  // Of tierkit's package cdn: what the edge fails to deliver comes from the origin.
  var base = new URL(edge).origin;
  function instead(address) {
    try {
      var u = new URL(address, document.baseURI);
      return u.origin === base ? origin + u.pathname + u.search + u.hash : "";
    } catch (e) {
      return "";
    }
  }
  function retry(el) {
    var field = el.tagName === "LINK" ? "href" : "src";
    var to = instead(el.currentSrc || el[field]);
    if (!to || el.cdnFallback) return;
    if (el.tagName === "SCRIPT") { // one that has failed never runs: it takes a new one
      var s = document.createElement("script");
      for (var i = 0; i < el.attributes.length; i++) {
        s.setAttribute(el.attributes[i].name, el.attributes[i].value);
      }
      s.nonce = el.nonce;
      s.async = false;
      s.cdnFallback = true;
      s.src = to;
      el.after(s);
      return;
    }
    if (el.tagName === "SOURCE") {
      el = el.parentNode;
      field = "src";
      if (!el || el.cdnFallback) return;
    }
    el.cdnFallback = true;
    if (el.tagName === "IMG") {
      el.removeAttribute("srcset");
      if (el.parentNode && el.parentNode.tagName === "PICTURE") {
        el.parentNode.querySelectorAll("source").forEach(function (x) { x.remove(); });
      }
    }
    el[field] = to;
  }
  addEventListener("error", function (e) {
    if (e.target && /^(IMG|SCRIPT|LINK|VIDEO|AUDIO|SOURCE)$/.test(e.target.tagName)) retry(e.target);
  }, true);
  var ask = window.fetch;
  window.fetch = function (input, init) {
    var request;
    try {
      request = new Request(input, init);
    } catch (e) {
      return ask.apply(window, arguments);
    }
    var to = instead(request.url);
    if (!to || request.method !== "GET" && request.method !== "HEAD") return ask.apply(window, arguments);
    return ask.call(window, request).catch(function (err) {
      if (request.signal.aborted) throw err;
      return ask.call(window, new Request(to, request));
    });
  };
})
