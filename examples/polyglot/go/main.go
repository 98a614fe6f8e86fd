// The stock of a product: an aggregate, and a subscriber that reorders a product that runs low.
package main

import _ "stock/wit_exports"

// main does not run: the host calls the exports.
func main() {}
